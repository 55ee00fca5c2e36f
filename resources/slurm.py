"""A job in the queue of a SLURM cluster, whose machines share the job's folders with this one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import dagster as dg
from filelock import FileLock

from resources.pipes import ENVIRONMENT, run_client, write_job
from symtune_pipeline.errors import JobLost, UserError
from symtune_pipeline.jobs.job import Job

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")
# How jobs end: one that SLURM has ended for reasons of its own goes on when it is submitted again.
EARLY = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"})
FORGOTTEN = "FORGOTTEN"  # our word: SLURM keeps an ended job for some minutes
ENDS = EARLY | {
    "COMPLETED", "FAILED", "CANCELLED", "DEADLINE", "OUT_OF_MEMORY", "REVOKED", FORGOTTEN,
}  # fmt: skip
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between two questions: a controller serves many
LAST_WORDS = 30  # seconds that what a job has written may take to this machine
TAIL = 20  # lines of the output of a job that could not say what was wrong


@dataclass(frozen=True)
class Machines:
    """What a job asks of the cluster: machines, ranks on each, and further options of sbatch."""

    nodes: int
    ranks: int
    cpus: int
    options: Sequence[str]

    def command(self, package: str, file: Path) -> str:
        """The line of the batch script that runs a job on all of them."""
        step = [
            "srun", f"--ntasks={self.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={self.cpus}",
            "--kill-on-bad-exit=1", "--mpi=none", "--export=ALL", sys.executable, "-m",
        ]  # fmt: skip
        job = shlex.join([package, "--config", str(file)])
        ranks = ["--nproc-per-node", str(self.ranks)]
        if self.nodes > 1:
            step += ["torch.distributed.run", "--nnodes", str(self.nodes), *ranks]
            # The script runs on the first machine, where ranks meet at a port that no system gives
            # away by itself, and that none of the cluster's next 10,000 jobs has.
            meet = '"$(hostname):$((20000 + SLURM_JOB_ID % 10000))" --rdzv-id="$SLURM_JOB_ID"'
            return f"{shlex.join(step)} --rdzv-backend=c10d --rdzv-endpoint={meet} -m {job}"
        if self.ranks > 1:
            step += ["symtune_pipeline.jobs.on_torchrun", *ranks, "-m"]
        return f"{shlex.join(step)} {job}"


class Lost(Exception):
    """How a job ended that did not come to its end."""


def run_on_slurm(
    context: dg.AssetExecutionContext, job: Job, machines: Machines, max_failures: int
) -> Path:
    """Run a job as one of SLURM's; one that SLURM ends early is submitted up to `max_failures` times more.

    Raises UserError where SLURM is not there or does not take the job, and else as `run_client`.
    However this ends, no job stays in the queue.
    """
    if missing := [name for name in COMMANDS if not shutil.which(name)]:
        raise UserError(
            f"The SLURM launcher needs the commands {', '.join(missing)}, which are not on PATH; start"
            " it on a machine of the cluster that may submit jobs, or unset SYMTUNE_LAUNCHER."
        )
    command = machines.command(job.package, write_job(job).absolute())
    folder = job.output_folder.absolute()
    name = f"symtune-{sha256(str(folder).encode()).hexdigest()[:16]}"
    # Who holds the lock is the job's only launcher: a killed one has left what is in the queue.
    with FileLock(folder / "slurm.lock"):
        failures = 0
        while True:
            _cancel(name)
            queued = Queued(context, folder, name, command, machines.options)
            try:
                return Path(queued.run(job))
            except JobLost as lost:
                failures += 1
                if queued.state not in EARLY or failures > max_failures:
                    raise
                context.log.warning(f"{lost} It is submitted again.")
            finally:
                _cancel(name)


@dataclass
class Queued:
    """One submission of a job."""

    context: dg.AssetExecutionContext
    folder: Path
    name: str
    command: str
    options: Sequence[str]
    state: str = ""  # SLURM's word, when it has ended

    def run(self, job: Job) -> str:
        """Submit it and wait for its end; returns where its result lies."""
        # A job that a killed launcher has left may still write into files of another name.
        beside = self.folder / f"pipes-{uuid4().hex[:8]}"
        reader = dg.PipesFileMessageReader(f"{beside}-messages")

        def run() -> None:
            with dg.open_pipes_session(
                context=self.context,
                context_injector=dg.PipesFileContextInjector(f"{beside}-context"),
                message_reader=reader,
            ) as pipes:
                self._run(pipes)

        about = f"The {job.name} {job.output_folder}"
        return run_client(reader, run, (Lost,), about, job.goes_on, evicts=True)

    def _run(self, pipes: dg.PipesSession) -> None:
        environment = {**ENVIRONMENT, **pipes.get_bootstrap_env_vars()}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        number = self._submit("\n".join(["#!/bin/bash", *exports, f"exec {self.command}", ""]))
        output = self.folder / f"slurm-{number}.out"
        self.context.log.info(f"SLURM job {number}: submitted, and what it prints is in {output}")
        facts = self._follow(number)
        self.state = facts["JobState"]
        handler = pipes.message_handler
        end = time.monotonic() + LAST_WORDS
        while (
            self.state in {"COMPLETED", "FAILED", FORGOTTEN}
            and not handler.received_closed_message
            and time.monotonic() < end
        ):
            time.sleep(0.05)
        if self.state == "COMPLETED":
            return
        if output.is_file() and not handler.received_closed_message:
            lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
            self.context.log.info("\n".join([f"The end of {output}:", *lines[-TAIL:]]))
        raise Lost(f"SLURM job {number} ended as {self.state}{_details(facts)}")

    def _submit(self, script: str) -> str:
        """The number of the new job."""
        output = f"{str(self.folder).replace('%', '%%')}/slurm-%j.out"  # fields begin with %
        ours = ("--parsable", "--no-requeue", f"--job-name={self.name}", f"--output={output}")
        sent = _ask("sbatch", *ours, *self.options, text=script)
        number = re.match(r"\d+", sent.stdout)
        if sent.returncode or number is None:
            raise UserError(
                f"SLURM does not take the job ({_reason(sent)}); correct the launcher file (sinfo shows"
                " what the cluster has), or unset SYMTUNE_LAUNCHER."
            )
        return number[0]

    def _follow(self, number: str) -> Mapping[str, str]:
        """What SLURM says of the job when it has ended; until then, what changes is logged."""
        told, pause = "", FIRST_PAUSE
        while True:
            asked = _ask("scontrol", "--oneliner", "show", "job", number)
            facts = _facts(asked)
            if facts.get("JobState") in ENDS:
                return facts
            line = _fares(number, facts) if facts else f"SLURM does not answer ({_reason(asked)})"
            if line != told:
                self.context.log.info(f"SLURM job {number}: {line}")
            told = line
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)


def _facts(asked: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What scontrol says of a job; nothing where SLURM does not answer."""
    if asked.returncode:
        return {"JobState": FORGOTTEN} if "Invalid job id" in asked.stderr else {}
    # Texts of users come late in it, so that the first value of a name is SLURM's.
    return dict(reversed(re.findall(r"(\w+)=(\S*)", asked.stdout)))


def _fares(number: str, facts: Mapping[str, str]) -> str:
    """How a job fares that has not ended, with its place in the queue while it waits."""
    state = facts["JobState"].lower()
    if state != "pending":
        return f"{state} on {facts.get('NodeList')}, until {facts.get('EndTime')} at the latest"
    line, partition = f"pending ({facts.get('Reason')})", facts.get("Partition")
    by_priority = ("--sort=-p,i", "--format=%A", "--noheader")
    waiting = _ask("squeue", "--states=PENDING", f"--partition={partition}", *by_priority)
    numbers = waiting.stdout.split()
    if number in numbers:
        place = f"number {numbers.index(number) + 1} of {len(numbers)}"
        line += f", {place} by priority that wait for partition {partition}"
    start = facts.get("StartTime", "Unknown")
    return line if start == "Unknown" else f"{line}, expected to start at {start[:16]}"


def _details(facts: Mapping[str, str]) -> str:
    """Why a job ended, as far as SLURM says so."""
    known = {"reason": facts.get("Reason", "None"), "status": facts.get("ExitCode", "0:0")}
    said = [f", {name} {value}" for name, value in known.items() if value not in {"None", "0:0"}]
    return "".join(said)


def _cancel(name: str) -> None:
    """Take those of the user's jobs that have a name out of the queue, or end them."""
    _ask("scancel", "--quiet", "--me", f"--name={name}")


def _ask(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM's; a Ctrl-C in this shell does not reach it."""
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, start_new_session=True
    )


def _reason(asked: subprocess.CompletedProcess[str]) -> str:
    """What a command of SLURM's says of its failure, in one line."""
    lines = [re.sub(r"^\w+: ((error|fatal): )?", "", line) for line in asked.stderr.splitlines()]
    return "; ".join(line.rstrip(".") for line in lines if line) or f"code {asked.returncode}"
