"""Bring every asset of an experiment up to date for one model, and show what came out.

    python materialize.py --experiment quickstart --partition smollm2-135m

The same as materialising the job `symbol_tuning` in Dagster's UI, in one process and with a log for
people. What is up to date is recognised and left as it is, so an interrupted run goes on.
"""

import argparse
import os
import sys
from pathlib import Path

from symtune_pipeline.errors import UserError


def main() -> int:
    """Run the job; exits with 1 where a step failed and with 2 where a setting is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--experiment", help="a name in experiments/ or a file (default: SYMTUNE_EXPERIMENT)"
    )
    parser.add_argument(
        "--partition", help="a model of the catalogue (default: the experiment's first)"
    )
    arguments = parser.parse_args()
    if arguments.experiment:
        os.environ["SYMTUNE_EXPERIMENT"] = arguments.experiment
    try:
        return run(arguments.partition)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(partition: str | None) -> int:
    """Materialise everything, then print the table and where the report lies."""
    import dagster as dg

    from definitions import defs, experiment
    from symtune_pipeline import catalog

    key = catalog.model(partition or experiment.models[0]).key
    os.environ.setdefault("DAGSTER_HOME", str(Path(__file__).resolve().parent / ".dagster"))
    job = defs.resolve_job_def("symbol_tuning")
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(partition_key=key, instance=instance, raise_on_error=False)
    failed = [event for event in result.all_events if event.is_step_failure]
    for event in failed:
        failure = event.step_failure_data
        # A user error is one sentence; anything else is a bug, which its traceback helps to find.
        told = failure.user_failure_data.description if failure.user_failure_data else failure.error
        print(f"error: {event.step_key}: {told}", file=sys.stderr)
    if failed:
        return 1
    show()
    return 0


def show() -> None:
    """The table that a run ends with."""
    from rich.console import Console

    from definitions import defs
    from symtune_pipeline.report.tables import terminal_table

    store = defs.resources["store"].store  # type: ignore[index]
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(terminal_table(store.read_table("mart_summary")))
    console.print(f"Report: {store.folder('eval_report') / 'index.html'}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
