"""Weights & Biases: the curves of a fine-tune job."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import polars as pl


class WandbTracker(dg.ConfigurableResource[None]):
    """Logs finished jobs: online where WANDB_API_KEY is set, otherwise into a folder."""

    folder: str
    project: str = "symbol-tuning"

    def log_job(self, name: str, log: pl.DataFrame, settings: dict[str, object]) -> None:
        """One run with a row of metrics per step."""
        import wandb

        Path(self.folder).mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False
        )
        with wandb.init(
            project=self.project,
            name=name,
            dir=self.folder,
            mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
            config=settings,
            settings=quiet,
        ) as run:
            for row in log.iter_rows(named=True):
                run.log(row, step=int(row["step"]))
