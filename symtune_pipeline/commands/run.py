"""`symtune run`: brings everything of an experiment up to date for one model.

What is wrong with the arguments is found here. The graph is a program of its own beside the library,
which imports neither it nor Dagster: this process becomes that one.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from symtune_pipeline.commands.common import store_of
from symtune_pipeline.commands.whole_run import missing_roles
from symtune_pipeline.environment import experiment_name, import_from
from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.interrupts import wait_for_next_program
from symtune_pipeline.experiment import LIBRARY, load_experiment

CHECKOUT = LIBRARY.parent


def run(
    model: Annotated[
        str | None, typer.Option(help="A model of the experiment. Default: its first.")
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(help="Only these assets, in Dagster's selection syntax: '+key:int_examples'."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SETTING=VALUE", help="Change a setting; may be repeated."),
    ] = None,
) -> None:
    """Run an experiment for one model, and print the results.

    What is up to date is skipped, so an interrupted run resumes.

    A setting that --set changes makes what depends on it anew, in place of the results that were there.

    Example: symtune run --experiment quickstart --set tuning.learning_rate=1e-4
    """
    if not (CHECKOUT / "assets" / "run.py").is_file():
        raise UserError(
            "This installation has the commands without the graph; clone the repository, run `make setup`"
            " in it, and start `symtune run` from its environment."
        )
    changes = changes or []
    experiment = load_experiment(experiment_name(), changes)
    store_of(experiment)  # which refuses where another file has the same name
    key = experiment.model(model or experiment.models[0]).key
    lacking = None if select else missing_roles(experiment)
    if lacking:
        print(f"warning: {lacking}", file=sys.stderr)
    import_from(CHECKOUT)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not from the current folder (-P), where a module of the same name may lie.
    program = [sys.executable, "-P", "-m", "assets.run"]
    wait_for_next_program()
    os.execv(sys.executable, [*program, key, select or "", *changes])
