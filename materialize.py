"""Bring every asset of an experiment up to date for one model, and print the results.

    python materialize.py --experiment quickstart --partition smollm2-135m

This is the same as the job `symbol_tuning` in Dagster's UI, but in one process and with a readable log.
Assets that are up to date are skipped, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.interrupts import interrupted, run_command, unbroken

if TYPE_CHECKING:  # all else is imported once the command can be interrupted
    import dagster as dg

    from symtune_pipeline.experiment import Experiment

INTERRUPTED = (
    "The run was interrupted; start it again to resume, a fine-tune from the last checkpoint."
)


def main() -> int:
    """Run the job; exits with 1 where a step or a test failed and with 2 where a setting is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--experiment", help="a name in experiments/ or a file (default: SYMTUNE_EXPERIMENT)"
    )
    parser.add_argument(
        "--select",
        help="run only these assets, in Dagster's selection syntax, such as '+key:int_examples'",
    )
    parser.add_argument("--partition", help="a model of the experiment (default: its first)")
    arguments = parser.parse_args()
    from symtune_pipeline.environment import experiment_name
    from symtune_pipeline.experiment import load_experiment

    try:
        experiment = load_experiment(arguments.experiment or experiment_name())
        model = experiment.model(arguments.partition or experiment.models[0])
        return run(experiment, model.key, arguments.select)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(experiment: Experiment, model: str, select: str | None) -> int:
    """Materialise everything, then print the results and the report's path; or only what is selected."""
    with unbroken():
        import dagster as dg

        from assets.location import EVERYTHING, code_location
        from resources.console import keep_showing
        from symtune_pipeline.commands.report import print_report
        from symtune_pipeline.commands.whole_run import missing_roles

    lacking = None if select else missing_roles(experiment)
    if lacking:
        print(f"warning: {lacking}", file=sys.stderr)
    os.environ.setdefault("DAGSTER_HOME", str(Path(__file__).resolve().parent / ".dagster"))
    defs = code_location(experiment)
    job = defs.resolve_job_def(EVERYTHING)
    selected = selection(defs, select) if select else None
    with dg.DagsterInstance.get() as instance:
        keep_showing(instance)
        result = job.execute_in_process(
            partition_key=model, instance=instance, raise_on_error=False, asset_selection=selected
        )
        if stopped(result):
            # To Dagster it has failed, since nobody has asked its instance to end the run.
            instance.report_run_canceled(result.dagster_run, "The run was interrupted.")
            raise KeyboardInterrupt
    if not succeeded(result):
        return 1
    if not select:
        print_report(defs.resources["store"].artifacts)  # type: ignore[index]
    return 0


def stopped(result: dg.ExecuteInProcessResult) -> bool:
    """Whether somebody has stopped the run, or the job that one of its steps has waited for."""
    from dagster._core.execution.plan.objects import ErrorSource

    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    by_step = any(failure.error_source == ErrorSource.INTERRUPT for failure in failures)
    return by_step or (interrupted() and not result.success)


def succeeded(result: dg.ExecuteInProcessResult) -> bool:
    """Whether every step and every test that is no warning ended well; prints what did not."""
    failures = [event for event in result.all_events if event.is_step_failure]
    for event in failures:
        failure = event.step_failure_data
        # A user error is one sentence; anything else is a bug, which its traceback helps to find.
        reason = failure.user_failure_data.description if failure.user_failure_data else None
        print(f"error: {event.step_key}: {reason or failure.error}", file=sys.stderr)
    broken = [check for check in result.get_asset_check_evaluations() if not check.passed]
    for check in broken:
        print(f"{check.severity.value.lower()}: {check.description}", file=sys.stderr)
    return not failures and not any(check.severity.value == "ERROR" for check in broken)


def selection(defs: dg.Definitions, text: str) -> list[dg.AssetKey]:
    """The assets that a selection means; raises UserError where it means none."""
    import dagster as dg

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # 'not' is built on a beta parameter
            graph = defs.resolve_asset_graph()
            keys = list(dg.AssetSelection.from_string(text).resolve(graph))
    except dg.DagsterError:
        keys = []
    if not keys:
        raise UserError(
            f"The selection '{text}' means no asset; write it in Dagster's syntax, such as"
            " '+key:int_examples or key:eval', with names that `dagster asset list` prints."
        )
    return keys


if __name__ == "__main__":
    sys.exit(run_command(main, INTERRUPTED))
