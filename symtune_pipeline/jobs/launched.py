"""How a job speaks with whoever launched it: through Dagster Pipes, or in plain lines.

Knows Dagster only by its Pipes protocol, whose package is a single file without Dagster.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import psutil
from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, open_dagster_pipes

from symtune_pipeline.environment import is_first_rank
from symtune_pipeline.errors import UserError, interrupts
from symtune_pipeline.jobs.job import Job, Program, Say
from symtune_pipeline.jobs.job_file import opened_job

Work = Callable[[Job, Say], Path]
PATIENCE = 30  # seconds that a job has to end by itself


def run_launched(address: str, program: Program, work: Work) -> int:
    """Do the work of a program's job file; returns the exit status: 2 after a user error, or an interrupt's.

    Dagster is told the lines as log messages, and at the end the folder of the result or the user
    error's sentence. Where nobody listens, and for the other ranks under torchrun, they are printed.
    """
    if not (is_first_rank() and PipesEnvVarParamsLoader().is_dagster_pipes_process()):
        return _run(address, program, work, _print, lambda message: _print(*message.values()))
    with open_dagster_pipes() as pipes:
        _end_with_launcher(pipes)
        try:
            return _run(address, program, work, pipes.log.info, pipes.report_custom_message)
        except BaseException:
            if not interrupts.interrupted():
                raise
            # Here, since of what leaves this block Dagster logs the traceback.
            pipes.log.warning(program.interrupted)
            pipes.report_custom_message({"interrupted": program.interrupted})
            return interrupts.status()


def _run(
    address: str,
    program: Program,
    work: Work,
    say: Say,
    report: Callable[[dict[str, str]], None],
) -> int:
    try:
        with opened_job(address, program.config) as job:
            result = work(job, say)
        report({"result": str(result)})
    except UserError as error:
        report({"user_error": str(error)})
        return 2
    return 0


def _print(line: str) -> None:
    print(line, flush=True)


def _end_with_launcher(pipes: PipesContext) -> None:
    """A launcher on this machine names its process: when that is gone, killed even, so is the job."""
    launcher = pipes.extras.get("launcher")
    if launcher is None:
        return

    def watch() -> None:
        while psutil.pid_exists(launcher):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)  # Python hears a signal only where no library call is stuck
        os.kill(os.getpid(), signal.SIGKILL)

    Thread(target=watch, daemon=True).start()
