"""Running a job through a launcher, within a step of Dagster."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil

from resources.launcher import Launcher
from symtune_pipeline.errors import UserError
from symtune_pipeline.jobs.job import Job


@dataclass(frozen=True)
class Launched:
    """How a job ended: the result's folder or the user error, and the lines of the step's log."""

    result: Path | None
    error: str | None
    lines: list[str]

    def losses(self) -> list[float]:
        assert self.result, self.error
        log = json.loads((self.result / "log.json").read_text(encoding="utf-8"))["log"]
        return pl.DataFrame(log)["loss"].to_list()


def launch(launcher: Launcher, job: Job) -> Launched:
    """Run a job to its end; an exception that is no user error is raised."""
    ended: dict[str, Any] = {}

    @dg.asset
    def tuned(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        try:
            ended["result"] = launcher.run(context, job)
        except UserError as error:
            ended["error"] = str(error)
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([tuned], instance=instance)
        lines = [entry.user_message for entry in instance.all_logs(run.run_id)]
    return Launched(ended.get("result"), ended.get("error"), lines)


def until(true: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until something is true; fails after some seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def descendants(process: int, name: str = "") -> list[int]:
    """The processes below one whose command holds `name`."""
    found = []
    for each in psutil.Process(process).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if name in " ".join(each.cmdline()):
                found.append(each.pid)
    return found
