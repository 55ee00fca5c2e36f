"""Weights & Biases: the curves of a fine-tune job."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import ValidationError

from symtune_pipeline.errors.interrupts import interrupted

Log = Sequence[Mapping[str, Any]]  # a row for each step, by measure


class WandbTracker(dg.ConfigurableResource[None]):
    """Logs finished jobs: online where WANDB_API_KEY is set, otherwise into a folder."""

    folder: str
    project: str = "symbol-tuning"
    patience: int = 30  # seconds until a silent server is given up

    def log_job(
        self,
        name: str,
        log: Log,
        settings: dict[str, object],
        warn: Callable[[str], None],
    ) -> None:
        """One run with a row of metrics per step; `warn` is told, in a sentence, why there is none.

        Nothing that is wrong here costs a tuned model: where a server cannot be reached the run is
        kept in the folder, and where a setting is wrong there is no run. An interrupt passes.
        """
        try:
            trouble = self._log_job(name, log, settings)
        # The libraries raise their own, pydantic's and the system's errors.
        except Exception as error:
            if interrupted():
                raise
            trouble = (
                f"Weights & Biases cannot be used ({_reason(error)}); the job's curves are kept without"
                " it, so correct its settings before the next."
            )
        if trouble:
            warn(trouble)

    def _log_job(self, name: str, log: Log, settings: dict[str, object]) -> str | None:
        """Log a job, and say why the server could not be used if it was asked."""
        import wandb

        Path(self.folder).mkdir(parents=True, exist_ok=True)
        trouble = None
        try:
            if os.environ.get("WANDB_API_KEY"):
                try:
                    self._log(name, log, settings, "online")
                    return None
                except Exception as error:
                    if interrupted():
                        raise
                    trouble = (
                        f"Weights & Biases cannot be used ({type(error).__name__}); the curves are"
                        f" kept in {self.folder}, and `wandb sync` sends them later."
                    )
            self._log(name, log, settings, "offline")
            return trouble
        finally:
            # A finished run's file is not whole until wandb's process has ended. Where that process
            # ended badly, wandb would end ours.
            with suppress(SystemExit):
                wandb.teardown()

    def _log(
        self,
        name: str,
        log: Log,
        settings: dict[str, object],
        mode: Literal["online", "offline"],
    ) -> None:
        import wandb

        quiet = wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            disable_git=True,
            save_code=False,
            init_timeout=self.patience,
        )
        wandb.setup(settings=quiet)  # before the login, which would print the server's name
        run = wandb.init(
            project=self.project,
            name=name,
            dir=self.folder,
            mode=mode,
            config=settings,
            settings=quiet,
        )
        whole = False
        try:  # as a context manager, a run prints the traceback of what ends it
            for row in log:
                known = {name: value for name, value in row.items() if value is not None}
                run.log(known, step=int(row["step"]))
            whole = True
        finally:
            run.finish(exit_code=0 if whole else 1)


def _reason(error: Exception) -> str:
    """What is wrong, without values: a setting may hold a key or the name of a server."""
    from wandb.errors import AuthenticationError, UsageError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"WANDB_{'_'.join(map(str, first['loc'])).upper()}: {first['msg']}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, UsageError) and not isinstance(error, AuthenticationError):
        return str(error).splitlines()[0].rstrip(".")
    return type(error).__name__
