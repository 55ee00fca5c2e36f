"""One job by every launcher: several ranks, real Ray clusters, and what becomes of their dead."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from launching import Launched, descendants, launch, until
from tiny_models import tiny_job

from resources.launcher import RayLauncher, TorchrunLauncher
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the job in one process."""
    result = run_job(tiny_job(tmp_path_factory.mktemp("alone")), print)
    return Launched(result, None, []).losses()


@pytest.fixture
def cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Ray cluster on this machine that asks for a token: its address and its head's process."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    port = free_port()
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=3"]
    local = ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    ports = [
        f"--dashboard-port={port}",
        f"--port={free_port()}",
        f"--ray-client-server-port={free_port()}",
    ]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # as other tests run beside this one
    }
    environment.pop("PYTHONPATH", None)  # the library comes with the job
    head = subprocess.Popen([*command, *local, *ports], env=environment, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(f"{address}/api/version"))
        yield address, head
    finally:
        for process in [head.pid, *descendants(head.pid)]:
            kill(process)
        head.wait()


def test_two_processes_have_the_losses_of_one(alone: list[float], tmp_path: Path) -> None:
    ended = launch(TorchrunLauncher(processes=2), tiny_job(tmp_path))
    assert ended.losses() == pytest.approx(alone, abs=1e-4)
    assert [line for line in ended.lines if line.startswith("tuning: 100% of ")]


def test_more_processes_than_blocks_in_a_step_are_one_sentence(tmp_path: Path) -> None:
    error = launch(TorchrunLauncher(processes=3), tiny_job(tmp_path)).error
    assert error and error.startswith("3 processes were started for steps of 2 blocks")


@pytest.mark.parametrize("of_the_last", [-1, -2], ids=["second", "first"])
def test_a_dead_rank_is_named_and_the_other_one_ends_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], of_the_last: int
) -> None:
    config = tiny_job(tmp_path, epochs=500)
    killed = kill_when_at_work(
        config, lambda: [sorted(descendants(os.getpid(), "symtune_pipeline.tuning"))[of_the_last]]
    )
    error = launch(TorchrunLauncher(processes=2), config).error
    assert killed
    assert error and "goes on from the last checkpoint" in error
    said = "".join(capfd.readouterr())
    assert f"Rank {2 + of_the_last} ended with code -9" in said
    assert "Traceback" not in said


def test_a_dead_worker_is_replaced_and_the_losses_are_those_of_one_process(tmp_path: Path) -> None:
    alone = Launched(run_job(tiny_job(tmp_path / "alone", epochs=10), print), None, []).losses()
    config = tiny_job(tmp_path / "ray", epochs=10)
    killed = kill_when_at_work(config, lambda: descendants(os.getpid(), "RayTrainWorker")[:1])
    ended = launch(RayLauncher(workers=2), config)
    assert killed
    assert [line for line in ended.lines if line.startswith("tuning: going on from step ")]
    assert [line for line in ended.lines if line.startswith("tuning: 100% of ")]
    assert ended.losses() == pytest.approx(alone, abs=1e-4)


@pytest.mark.long
def test_a_running_cluster_gets_the_job_and_may_be_lost(
    cluster: tuple[str, subprocess.Popen[bytes]], alone: list[float], tmp_path: Path
) -> None:
    address, head = cluster
    launcher = RayLauncher(address=address, workers=2)
    ended = launch(launcher, tiny_job(tmp_path / "first"))
    assert ended.losses() == pytest.approx(alone, abs=1e-4)

    too_many = launch(RayLauncher(address=address, workers=3), tiny_job(tmp_path / "three")).error
    assert too_many and too_many.startswith("3 processes were started for steps of 2 blocks")

    config = tiny_job(tmp_path / "second", epochs=500)
    killed = kill_when_at_work(config, lambda: [head.pid, *descendants(head.pid)])
    lost = launch(launcher, config).error
    assert killed
    assert lost and address in lost and "goes on from the last checkpoint" in lost

    dead = launch(launcher, tiny_job(tmp_path / "third")).error
    assert dead and address in dead and "\n" not in dead


def kill_when_at_work(config: JobConfig, processes: Callable[[], list[int]]) -> list[int]:
    """Kill processes, in a thread, when the job has written a checkpoint; the list is filled then."""
    killed: list[int] = []

    def run() -> None:
        until(lambda: any((config.output_folder / "checkpoints").glob("step-*/state.json")))
        killed.extend(processes())
        for process in killed:
            kill(process)

    Thread(target=run).start()
    return killed


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except HTTPError:  # it asks for the cluster's token
        return True
    except (URLError, OSError):
        return False


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
