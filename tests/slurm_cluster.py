"""A SLURM cluster of two machines on this one, for tests: Debian's packages `slurm-wlm` and `munge`."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from launching import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=symtune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
KillWait=10
GresTypes=gpu
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs=2 Gres=gpu:2
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs=2 Gres=gpu:2
PartitionName=common Nodes=one,two Default=YES MaxTime=60 PriorityTier=1
PartitionName=urgent Nodes=one,two MaxTime=60 PriorityTier=10
"""


def missing_programs() -> list[str]:
    """Those of SLURM's programs that this machine lacks."""
    return [name for name in PROGRAMS if not _found(name)]


@contextmanager
def slurm_cluster() -> Iterator[Path]:
    """The cluster's configuration file while it runs; all that it writes lies in a temporary folder."""
    with ExitStack() as ends:
        # Short: the name of a socket has 107 characters at most.
        folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        conf = folder / "slurm.conf"
        ports = dict(zip(("controller", "one", "two"), _free_ports(3), strict=True))
        host = socket.gethostname().partition(".")[0]
        conf.write_text(CONF.format(folder=folder, host=host, user=getpass.getuser(), **ports))
        # SLURM counts these and hands them out; the jobs find none and work on the CPU.
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        munge = [f"--{name}-file={folder / name}" for name in ("pid", "log", "seed")]
        socket_ = folder / "munge.socket"
        for command in (
            ["munged", "--foreground", "--force", f"--socket={socket_}", f"--key-file={key}", *munge],
            ["slurmctld", "-D", "-f", str(conf)],
            ["slurmd", "-D", "-f", str(conf), "-N", "one"],
            ["slurmd", "-D", "-f", str(conf), "-N", "two"],
        ):  # fmt: skip
            with (folder / f"{command[0]}-{command[-1].rpartition('/')[2]}.out").open("w") as out:
                daemon = subprocess.Popen(
                    [_found(command[0]), *command[1:]], stdout=out, stderr=out
                )
            ends.callback(_end, daemon)
            until(socket_.exists, seconds=20)
        until(lambda: _idle(conf) == 2, seconds=30)
        yield conf


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _idle(conf: Path) -> int:
    asked = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--partition=common", "--states=idle", "--format=%N"],
        env=os.environ | {"SLURM_CONF": str(conf)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return len(asked.stdout.split())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
