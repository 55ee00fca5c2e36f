"""Running a job through Dagster Pipes, and hearing how it ended."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGINT
from subprocess import Popen, TimeoutExpired
from uuid import uuid4

import dagster as dg

from symtune_pipeline.errors import JobLost, UserError
from symtune_pipeline.errors.interrupts import starting_program
from symtune_pipeline.files import write_text
from symtune_pipeline.jobs.job import RANK_DIED, Job

# Tensors of 32 MiB and more go back to the system when freed; smaller ones stay in glibc's heap,
# as it takes long to hand out memory anew: at blocks of 1,024 tokens a step is a fifth faster than
# where tensors of 1 MiB go back, for a tenth more memory. Huge pages, where the system has them,
# are another fifth.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

INTERRUPT_SECONDS = 20  # for a program that is interrupted, to end
INTERRUPTED = ("code 130", "code 143")  # how a job ends that was interrupted before it could say so
# How a program ends that nobody has asked to: killed, or with a dead rank among those that it started.
LOST = re.compile(rf"code (-\d+|{RANK_DIED})$")


def run_here(context: dg.AssetExecutionContext, job: Job, *program: str) -> Path:
    """Run a job as a program on this machine, `python -m <program> --config <the job's file>`."""
    command = [sys.executable, "-m", *program, "--config", str(write_job(job))]
    # In the job's folder, which goes when the job is done: a temporary one outlives a killed run.
    beside = job.output_folder.absolute() / f"pipes-{uuid4().hex[:8]}"
    reader = dg.PipesFileMessageReader(f"{beside}-messages")

    def run() -> None:
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesFileContextInjector(f"{beside}-context"),
            message_reader=reader,
            extras={"launcher": os.getpid()},
        ) as pipes:
            _run_program(command, {**os.environ, **ENVIRONMENT, **pipes.get_bootstrap_env_vars()})

    about = f"The {job.name} {job.output_folder}"
    return Path(run_client(reader, run, (Failed,), about, job.goes_on))


class Failed(Exception):
    """How a program on this machine ended that did not succeed."""


def _run_program(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a program to its end, and pass an interrupt on to it; raises Failed with its exit status.

    Dagster's own client would start it so that an interrupt which comes at once is a traceback.
    """
    process = None
    try:
        with starting_program():
            process = Popen(command, env=environment)
        process.wait()
    except dg.DagsterExecutionInterruptedError:
        if process:
            process.send_signal(SIGINT)
            process.wait(INTERRUPT_SECONDS)
        raise
    if process.returncode:
        raise Failed(f"its program ended with code {process.returncode}")


def write_job(job: Job) -> Path:
    """Write the job's file into its output folder."""
    job.output_folder.mkdir(parents=True, exist_ok=True)
    path = job.output_folder / "job.json"
    write_text(path, job.model_dump_json(indent=1))
    return path


def run_client(
    reader: dg.PipesMessageReader,
    run: Callable[[], object],
    failures: Sequence[type[Exception]],
    job: str,
    goes_on: str,
    *,
    evicts: bool = False,
) -> str:
    """Run a Pipes client with `reader`; returns where the job says that its result lies.

    Raises UserError with the job's own sentence where a setting or the data is at fault, and JobLost
    with one that begins with `job` where it ended early or could not start, which is one of `failures`;
    `goes_on` says what it does when it is started again.
    Where somebody has stopped the job or the run, Dagster's exception for that ends the run. Of a job
    that the machine itself `evicts`, it does not: what it says of an interrupt is no user's wish.
    """
    handlers = _handlers(reader)
    reason = "it reported no result"
    try:
        with warnings.catch_warnings():
            # Dagster warns of a part of its own that is in preview.
            warnings.simplefilter("ignore", dg.PreviewWarning)
            run()
    except tuple(failures) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")
    except TimeoutExpired:
        # An interrupt was passed on, and nobody waits any longer; the job ends when this process has.
        raise dg.DagsterExecutionInterruptedError from None
    messages = {
        key: text
        for handler in handlers
        for message in handler.get_custom_messages()
        for key, text in message.items()
    }
    if "user_error" in messages:
        raise UserError(messages["user_error"])
    # A rank is asked to end as if by a user where another one has died: then the program's code tells.
    if not evicts and (
        reason.endswith(INTERRUPTED) or ("interrupted" in messages and not LOST.search(reason))
    ):
        raise dg.DagsterExecutionInterruptedError(f"{job} was interrupted.")
    if "result" not in messages:
        raise JobLost(
            f"{job} did not come to its end ({reason}); its messages are above, and starting it again"
            f" {goes_on}."
        )
    return str(messages["result"])


def _handlers(reader: dg.PipesMessageReader) -> list[dg.PipesMessageHandler]:
    """Those who will have got the reader's messages: a client gives none out after a failure."""
    handlers: list[dg.PipesMessageHandler] = []
    read = reader.read_messages

    def remembering(handler: dg.PipesMessageHandler):  # type: ignore[no-untyped-def]
        handlers.append(handler)
        return read(handler)

    reader.read_messages = remembering  # type: ignore[method-assign]
    return handlers
