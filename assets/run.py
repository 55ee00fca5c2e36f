"""The program behind `symtune run`: everything of an experiment for one model, in one process.

    python -m assets.run <model> <selection, or nothing> <settings to change>...

`symtune` starts it, since the library imports no Dagster. It is the same as the job `symbol_tuning` in
Dagster's UI, with a log for a terminal.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.interrupts import interrupted, run_command, unbroken

if TYPE_CHECKING:  # all else is imported once the command can be interrupted
    import dagster as dg

INTERRUPTED = (
    "The run was interrupted; start it again to resume, a fine-tune from the last checkpoint."
)
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Do what the arguments say; exits with 1 where a step or a test failed and with 2 for a user error."""
    model, select, *changes = sys.argv[1:]
    try:
        return run(model, select, changes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(model: str, select: str, changes: Sequence[str]) -> int:
    """Materialise everything, then print the results and the report's path; or only what is selected."""
    with unbroken():
        from assets.location import code_location
        from symtune_pipeline.commands.report import print_report
        from symtune_pipeline.environment import experiment_name
        from symtune_pipeline.experiment import load_experiment

    defs = code_location(load_experiment(experiment_name(), changes))
    result = execute(defs, model, selection(defs, select) if select else None, changes)
    if not succeeded(result):
        return 1
    if not select:
        print_report(defs.resources["store"].artifacts)  # type: ignore[index]
        print(next_steps(experiment_name()))
    return 0


def next_steps(experiment: str) -> str:
    """What a newcomer does after a run: commands, in a column, with what they are for."""
    named = experiment != "quickstart"
    option = f" --experiment {quote(experiment)}" if named else ""
    variable = f"SYMTUNE_EXPERIMENT={quote(experiment)} " if named else ""
    steps = {
        f"symtune report --open{option}": "open the report",
        f"{variable}dg dev": "open the graph and its runs in a browser",
        "symtune init mine.yaml --data my.csv": "write an experiment for your own file",
    }
    widest = max(map(len, steps))
    lines = [f"  {command:{widest}}  {purpose}" for command, purpose in steps.items()]
    return "\n".join([f"Next (`source {ROOT / '.envrc'}` first):", *lines])


def execute(
    defs: dg.Definitions, model: str, selected: list[dg.AssetKey] | None, changes: Sequence[str]
) -> dg.ExecuteInProcessResult:
    """Run the job; a run that somebody stops is raised as KeyboardInterrupt, and cancelled for Dagster."""
    import dagster as dg

    from assets.location import EVERYTHING
    from resources.console import keep_showing

    os.environ["DAGSTER_HOME"] = os.environ.get("DAGSTER_HOME") or str(ROOT / ".dagster")
    job = defs.resolve_job_def(EVERYTHING)
    tags = {"set": " ".join(changes)} if changes else {}
    with dg.DagsterInstance.get() as instance:
        keep_showing(instance)
        result = job.execute_in_process(
            partition_key=model, instance=instance, raise_on_error=False, asset_selection=selected, tags=tags
        )  # fmt: skip
        if stopped(result):
            # To Dagster it has failed, since nobody has asked its instance to end the run.
            instance.report_run_canceled(result.dagster_run, "The run was interrupted.")
            raise KeyboardInterrupt
    return result


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
