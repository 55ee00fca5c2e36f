"""Bring every asset of an experiment up to date for one model, and show what came out.

    python materialize.py --experiment quickstart --partition smollm2-135m

The same as materialising the job `symbol_tuning` in Dagster's UI, in one process and with a log for
people. What is up to date is recognised and left as it is, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import choose_experiment
from symtune_pipeline.interrupts import interrupted, run_command

if TYPE_CHECKING:
    import dagster as dg

INTERRUPTED = (
    "The run was interrupted; started again, it goes on where it was, within a fine-tune from the last"
    " checkpoint."
)


def main() -> int:
    """Run the job; exits with 1 where a step or a test failed and with 2 where a setting is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--experiment", help="a name in experiments/ or a file (default: SYMTUNE_EXPERIMENT)"
    )
    parser.add_argument(
        "--select", help="assets in Dagster's selection syntax, such as '+key:int_examples'"
    )
    parser.add_argument(
        "--partition", help="a model of the catalogue (default: the experiment's first)"
    )
    arguments = parser.parse_args()
    if arguments.experiment:
        choose_experiment(arguments.experiment)
    try:
        return run(arguments.partition, arguments.select)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(partition: str | None, select: str | None) -> int:
    """Materialise everything, then print the table and where the report lies; or what is selected."""
    import dagster as dg

    from definitions import defs, experiment
    from resources.console import keep_showing
    from symtune_pipeline import catalog

    key = catalog.model(partition or experiment.models[0]).key
    os.environ.setdefault("DAGSTER_HOME", str(Path(__file__).resolve().parent / ".dagster"))
    job = defs.resolve_job_def("symbol_tuning")
    selected = selection(select) if select else None
    with dg.DagsterInstance.get() as instance:
        keep_showing(instance)
        result = job.execute_in_process(
            partition_key=key, instance=instance, raise_on_error=False, asset_selection=selected
        )
        if stopped(result):
            # To Dagster it has failed, since nobody has asked its instance to end the run.
            instance.report_run_canceled(result.dagster_run, "The run was interrupted.")
            raise KeyboardInterrupt
    failed = [event for event in result.all_events if event.is_step_failure]
    for event in failed:
        failure = event.step_failure_data
        # A user error is one sentence; anything else is a bug, which its traceback helps to find.
        told = failure.user_failure_data.description if failure.user_failure_data else failure.error
        print(f"error: {event.step_key}: {told}", file=sys.stderr)
    broken = [check for check in result.get_asset_check_evaluations() if not check.passed]
    for check in broken:
        print(f"{check.severity.value.lower()}: {check.description}", file=sys.stderr)
    if failed or any(check.severity == dg.AssetCheckSeverity.ERROR for check in broken):
        return 1
    if not select:
        show()
    return 0


def stopped(result: dg.ExecuteInProcessResult) -> bool:
    """Whether somebody has stopped the run, or the job that one of its steps has waited for."""
    from dagster._core.execution.plan.objects import ErrorSource

    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    by_step = any(failure.error_source == ErrorSource.INTERRUPT for failure in failures)
    return by_step or (interrupted() and not result.success)


def selection(text: str) -> list[dg.AssetKey]:
    """The assets that a selection means; raises UserError where it means none."""
    import dagster as dg

    from definitions import defs

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # 'not' is built on a beta parameter
            graph = defs.resolve_asset_graph()
            found = list(dg.AssetSelection.from_string(text).resolve(graph))
    except dg.DagsterError:
        found = []
    if not found:
        raise UserError(
            f"The selection '{text}' means no asset; write it in Dagster's syntax, such as"
            " '+key:int_examples or key:eval', with names that `dagster asset list` prints."
        )
    return found


def show() -> None:
    """The table that a run ends with."""
    from definitions import defs
    from symtune_pipeline.look import print_report

    print_report(defs.resources["store"].store)  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(run_command(main, INTERRUPTED))
