"""How much of the quickstart's time is Dagster's own.

`symtune run` runs in an empty home. An asset's own time is that of its build function and of
keeping what it wrote, which the metadata of every materialization holds. All other time of the
process counts as Dagster's: starting Python, importing, loading the definitions, planning the run
and writing the event log, but also what assets do around their build functions (reading the versions
of inputs, testing SQL models) and printing the table. The share is therefore an upper bound.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg

from benchmarks.common import ROOT, SYMTUNE, Record, report
from resources.history import FOLDER
from resources.store import MADE_IN

BAR = 15  # percent
SLOWEST = 5


def run(experiment: str, home: Path) -> float:
    """Run the experiment in the empty folder `home`, which is DAGSTER_HOME too; seconds."""
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
    command = [SYMTUNE, "run", "--experiment", experiment]
    environment = os.environ | {"SYMTUNE_HOME": str(home / "symtune"), "DAGSTER_HOME": str(home)}
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return time.perf_counter() - started


def overhead(experiment: str, instance: Path, whole: float) -> list[Record]:
    """Dagster's share of the instance's only run, which took `whole` seconds; the slowest steps."""
    own, steps = _from_event_log(instance)
    percent = 100 * (1 - own / whole)
    slowest = sorted(steps, key=steps.__getitem__, reverse=True)[:SLOWEST]
    return [
        Record(f"{experiment}, the whole run", whole, None, "s"),
        Record(f"{experiment}, the assets' own code", own, None, "s"),
        Record(f"{experiment}, Dagster's share", percent, None, "%", None, f"{BAR}%",
               percent <= BAR),
        *(Record(f"{experiment}, step {step}", steps[step], None, "s") for step in slowest),
    ]  # fmt: skip


def _from_event_log(home: Path) -> tuple[float, dict[str, float]]:
    """Seconds of the assets' own code in the only run of an instance, and seconds by step."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        [run] = instance.get_run_records()
        run_id = run.dagster_run.run_id
        made = instance.get_records_for_run(
            run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        stats = instance.get_run_step_stats(run_id)
    materialized = [record.event_log_entry.asset_materialization for record in made]
    own = [float(one.metadata[MADE_IN].value) for one in materialized if one]  # type: ignore[arg-type]
    return sum(own), {
        step.step_key: (step.end_time or 0) - (step.start_time or 0) for step in stats
    }


def main() -> None:
    """Measure, print, write."""
    with TemporaryDirectory() as made:
        home = Path(made)
        seconds = run("quickstart", home)
        report("overhead", overhead("quickstart", home / FOLDER / "quickstart", seconds))


if __name__ == "__main__":
    main()
