"""Weights & Biases: the curves of a fine-tune job."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import dagster as dg
import polars as pl


class WandbTracker(dg.ConfigurableResource[None]):
    """Logs finished jobs: online where WANDB_API_KEY is set, otherwise into a folder."""

    folder: str
    project: str = "symbol-tuning"
    patience: int = 30  # seconds until a silent server is given up

    def log_job(
        self,
        name: str,
        log: pl.DataFrame,
        settings: dict[str, object],
        warn: Callable[[str], None],
    ) -> None:
        """One run with a row of metrics per step.

        A server that cannot be reached costs no tuned model: the run is then kept in the folder.
        """
        import wandb

        Path(self.folder).mkdir(parents=True, exist_ok=True)
        try:
            if os.environ.get("WANDB_API_KEY"):
                try:
                    return self._log(name, log, settings, "online")
                except wandb.Error as error:
                    warn(
                        f"Weights & Biases cannot be used ({type(error).__name__}); the curves are"
                        f" kept in {self.folder}, and `wandb sync` sends them later."
                    )
            self._log(name, log, settings, "offline")
        finally:
            # A finished run's file is not whole until wandb's process has ended. Where that process
            # ended badly, wandb would end ours.
            with suppress(SystemExit):
                wandb.teardown()

    def _log(
        self,
        name: str,
        log: pl.DataFrame,
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
        with wandb.init(
            project=self.project,
            name=name,
            dir=self.folder,
            mode=mode,
            config=settings,
            settings=quiet,
        ) as run:
            for row in log.iter_rows(named=True):
                known = {name: value for name, value in row.items() if value is not None}
                run.log(known, step=int(row["step"]))
