"""Run the pipeline, look at its data, prompts and results, and export them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from symtune_pipeline.commands import (
    collect,
    compare,
    doctor,
    export_dataset,
    export_lm_eval,
    init,
    mirror,
    plan,
    push,
    query,
    report,
    run,
    score_endpoint,
    show_dataset,
    show_model,
    show_prompt,
    show_table,
)
from symtune_pipeline.environment import choose_experiment

HELP = {"help_option_names": ["-h", "--help"]}


class AnyOrder(TyperGroup):
    """Takes `--experiment` after a command's name as well as before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move it to the front, wherever it stands before a `--`."""
        end = args.index("--") if "--" in args else len(args)
        first: list[str] = []
        rest: list[str] = []
        words = iter(args[:end])
        for word in words:
            if word == "--experiment":
                value = next(words, None)
                if value is None:
                    return super().parse_args(ctx, [word])  # which says what is missing
                first += [word, value]
            else:
                (first if word.startswith("--experiment=") else rest).append(word)
        return super().parse_args(ctx, [*first, *rest, *args[end:]])


app = typer.Typer(cls=AnyOrder, no_args_is_help=True, help=__doc__, context_settings=HELP)
show = typer.Typer(no_args_is_help=True, help="Show a dataset, a model, a prompt or a table.")
show.command()(show_table.table)
show.command()(show_dataset.dataset)
show.command()(show_model.model)
show.command()(show_prompt.prompt)
export = typer.Typer(no_args_is_help=True, help="Export prompts for other tools.")
export.command("dataset")(export_dataset.dataset)
export.command("lm-eval")(export_lm_eval.lm_eval)
app.command()(run.run)
app.command()(init.init)
app.command()(query.query)
app.add_typer(show, name="show")
app.command()(report.report)
app.command()(compare.compare)
app.command()(doctor.doctor)
app.add_typer(export, name="export")
app.command()(plan.plan)
app.command()(mirror.mirror)
app.command("score-endpoint")(score_endpoint.score_endpoint)
app.command()(push.push)
app.command()(collect.collect)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"symtune {version('symtune-pipeline')}")
        raise typer.Exit


@app.callback()
def _experiment(
    experiment: Annotated[
        str | None,
        typer.Option(help="A name in experiments/, or a file. Default: SYMTUNE_EXPERIMENT."),
    ] = None,
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    if experiment:
        choose_experiment(experiment)
