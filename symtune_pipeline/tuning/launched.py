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

from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, open_dagster_pipes
from pydantic import ValidationError

from symtune_pipeline.errors import UserError
from symtune_pipeline.tuning.config import JobConfig

Say = Callable[[str], None]


def run_launched(path: Path, work: Callable[[JobConfig, Say], Path]) -> int:
    """Do the work of a job file; returns the exit status, which is 2 after a user error.

    Dagster is told the lines as log messages, and at the end the folder of the result or the user
    error's sentence. Where nobody listens, and for the other ranks under torchrun, they are printed.
    """
    from torch.distributed import get_node_local_rank

    first = get_node_local_rank(fallback_rank=0) == 0
    if not (first and PipesEnvVarParamsLoader().is_dagster_pipes_process()):
        return _run(path, work, _print, lambda message: _print(*message.values()))
    with open_dagster_pipes() as pipes:
        _end_with_launcher(pipes)
        return _run(path, work, pipes.log.info, pipes.report_custom_message)


def _run(
    path: Path,
    work: Callable[[JobConfig, Say], Path],
    say: Say,
    report: Callable[[dict[str, str]], None],
) -> int:
    try:
        report({"result": str(work(_read(path), say))})
    except UserError as error:
        report({"user_error": str(error)})
        return 2
    return 0


def _read(path: Path) -> JobConfig:
    try:
        return JobConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Job file {path} cannot be used ({reason}); write it again.") from error


def _print(line: str) -> None:
    print(line, flush=True)


def _end_with_launcher(pipes: PipesContext) -> None:
    """A launcher on this machine names its process: when that is gone, killed even, so is the job."""
    launcher = pipes.extras.get("launcher")
    if launcher is None:
        return

    def watch() -> None:
        while _alive(launcher):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, daemon=True).start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
