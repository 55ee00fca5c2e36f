"""The command `symtune`: looking at what the pipeline has made, and carrying it elsewhere.

Materialising stays with Dagster. A user error ends in one sentence and exit code 2.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import (
    choose_experiment,
    current_experiment,
    endpoint_key,
    home_folder,
    home_url,
    mirror_folder,
)
from symtune_pipeline.interrupts import run_command

if TYPE_CHECKING:
    from symtune_pipeline.storage import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
show = typer.Typer(no_args_is_help=True, help="Look at a dataset, a prompt or a table.")
app.add_typer(show, name="show")
export = typer.Typer(no_args_is_help=True, help="Carry what the pipeline has made elsewhere.")
app.add_typer(export, name="export")


@app.callback()
def _experiment(
    experiment: Annotated[
        str | None,
        typer.Option(help="A name in experiments/ or a file; SYMTUNE_EXPERIMENT by default."),
    ] = None,
) -> None:
    if experiment:
        choose_experiment(experiment)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to print at most.")] = 50,
) -> None:
    """Run SQL over the tables that the pipeline has made, all partitions of a table as one.

    Example: symtune query "SELECT role, sum(kept) FROM int_set_statistics GROUP BY role"
    """
    from symtune_pipeline.look import print_query

    print_query(_store(), sql, rows)


@show.command()
def table(
    name: Annotated[str, typer.Argument(help="An asset, or one of its tables: eval.algorithmic.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to print at most.")] = 10,
) -> None:
    """The first rows of a table.

    Example: symtune show table int_examples --rows 3
    """
    from symtune_pipeline.look import print_table

    print_table(_store(), name, rows)


@show.command()
def dataset(
    key: Annotated[str, typer.Argument(help="A dataset of the experiment or the catalogue.")],
) -> None:
    """What the catalogue says about a dataset, and what was loaded of it.

    Example: symtune show dataset rte
    """
    from rich.console import Console

    from symtune_pipeline.look import dataset_table

    Console().print(dataset_table(_store(), current_experiment(), key))


@show.command()
def model(
    key: Annotated[str, typer.Argument(help="A model of the catalogue.")],
) -> None:
    """What the catalogue says about a model, what was made of it and where that lies.

    Example: symtune show model smollm2-135m
    """
    from rich.console import Console

    from symtune_pipeline.look import model_table

    Console().print(model_table(_store(), key))


@app.command()
def report(
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """The table of the latest report, and where its page lies.

    Example: symtune report --open
    """
    import webbrowser

    from symtune_pipeline.look import print_report

    page = print_report(_store())
    if open_page and not webbrowser.open(page.as_uri()):
        raise UserError(f"No browser can be started here; open {page} in one of yours.")


@app.command()
def doctor() -> None:
    """What is installed, reachable, writable and large enough, and what to do where it is not.

    Ends with exit code 1 where there is a problem.

    Example: symtune doctor
    """
    from symtune_pipeline.doctor import findings

    problems = 0
    for finding in findings():
        typer.echo(finding)
        problems += finding.remedy is not None
    if problems:
        raise typer.Exit(1)


@export.command("dataset")
def export_dataset(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one with an earlier export.")],
) -> None:
    """The mixture and the evaluation suites as a Hugging Face dataset folder with a card.

    Example: symtune export dataset /tmp/symbol-tuning
    """
    from symtune_pipeline.export import export_dataset

    rows = export_dataset(_store(), current_experiment(), folder)
    typer.echo(f"{folder}: {', '.join(f'{count:,} {name}' for name, count in rows.items())}")


@export.command("lm-eval")
def export_lm_eval(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one with an earlier export.")],
) -> None:
    """The evaluation suites as tasks of lm-evaluation-harness, which finds them by --include_path.

    Example: symtune export lm-eval /tmp/tasks
    """
    from symtune_pipeline.evaluation.lm_eval_tasks import export_tasks

    for name, queries in export_tasks(_store(), folder).items():
        typer.echo(f"{name}: {queries:,} queries")


@app.command()
def plan(
    model: Annotated[str | None, typer.Option(help="A model of the catalogue.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Its kind: l4, a100, h100, h200, b200, cpu.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="How many of them.")] = None,
    lora: Annotated[
        bool | None, typer.Option("--lora/--full", help="Adapters, or all weights.")
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--activation-checkpointing/--no-activation-checkpointing",
            help="Compute activations twice instead of keeping them.",
        ),
    ] = None,
    all_models: Annotated[
        bool, typer.Option("--all", help="Every model as the catalogue plans it, in Markdown.")
    ] = False,
) -> None:
    """What fine-tuning a model on this experiment's mixture needs: memory, time and price.

    What is not given is as the catalogue plans it.

    Example: symtune plan --model olmo2-7b --gpus 8 --gpu h100
    """
    from rich.console import Console

    from symtune_pipeline import catalog
    from symtune_pipeline.plan import make_plan
    from symtune_pipeline.plan_tables import markdown, shown

    store, experiment = _store(), current_experiment()
    if all_models:
        typer.echo(markdown([make_plan(store, experiment, m) for m in catalog.models().values()]))
        return
    if model is None:
        raise UserError("Name a model with --model, or plan every one with --all.")
    made = make_plan(
        store,
        experiment,
        catalog.model(model),
        gpu=gpu,
        gpus=gpus,
        lora=lora,
        activation_checkpointing=checkpointing,
    )
    Console(highlight=False).print(shown(made, experiment.name), soft_wrap=True)


def _store() -> Store:
    from symtune_pipeline.bucket import Bucket
    from symtune_pipeline.bucket_store import BucketStore
    from symtune_pipeline.storage import Store

    name, url = current_experiment().name, home_url()
    root = home_folder() / name
    return BucketStore(root, Bucket(f"{url}/{name}")) if url else Store(root)


@app.command()
def mirror(
    to: Annotated[str, typer.Argument(help="A folder, or an s3://<bucket>/<prefix>.")],
) -> None:
    """Fill a mirror with the experiment's public sets, from the hub or from SYMTUNE_MIRROR.

    What is there is left as it is, so that an interrupted copy goes on where it was.
    """
    from symtune_pipeline.sources.load import public_source
    from symtune_pipeline.sources.mirror import Mirror, fill_mirror

    experiment = current_experiment()
    public = [entry for entry in experiment.datasets() if entry.hub]
    if not public:
        raise UserError(
            f"Experiment '{experiment.name}' has no public sets to mirror; choose one with `source: hub`,"
            " such as paper."
        )
    fill_mirror(public, public_source(mirror_folder()), Mirror(to), print)


@app.command("score-endpoint")
def score_endpoint(
    url: Annotated[str, typer.Argument(help="The server's address, up to and with /v1.")],
    model: Annotated[str, typer.Option(help="The model's name on the server.")],
    output: Annotated[Path, typer.Option(help="A Parquet file for the predictions.")],
) -> None:
    """Score a served model on the classification suites, by log-probabilities of echoed prompts.

    The server needs OpenAI's /v1/completions with echo and logprobs, as vLLM has it; its key, where
    it asks for one, is read from OPENAI_API_KEY.

    Example: symtune score-endpoint http://127.0.0.1:8000/v1 --model smollm2 --output scores.parquet
    """
    from polars.exceptions import ComputeError

    from symtune_pipeline.evaluation.endpoint import Endpoint, accuracies, predict
    from symtune_pipeline.evaluation.suites import CLASSIFICATION
    from symtune_pipeline.progress import Progress
    from symtune_pipeline.schemas import checked

    if output.is_dir() or not output.resolve().parent.is_dir():
        raise UserError(f"File {output} cannot be written; name a file in a folder that exists.")
    store = _store()
    suite = store.read_table("eval", name=CLASSIFICATION)
    examples = store.read_table("int_evaluation_examples").sort("example")
    progress = Progress(model, len(suite), "queries")
    endpoint = Endpoint(url, model, endpoint_key())
    predictions = predict(endpoint, suite, examples["input"].to_list(), progress)
    for line in accuracies(predictions):
        typer.echo(line)
    try:
        checked(predictions, "classification_predictions").write_parquet(output)
    except (OSError, ComputeError) as error:
        raise UserError(
            f"File {output} cannot be written ({error}); make room there or name another file, and"
            " score again."
        ) from error


@app.command()
def push(
    partition: Annotated[str, typer.Argument(help="A model of the experiment.")],
    to: Annotated[str, typer.Option(help="The repository: owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="A new one is not public.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload; otherwise only list.")] = False,
) -> None:
    """Upload a tuned model to a hub; without --yes, list what would be uploaded.

    Example: symtune push smollm2-135m --to owner/name --private --yes
    """
    from symtune_pipeline.push import listing, tuned_model, upload

    folder = tuned_model(_store(), partition)
    for line in listing(folder):
        typer.echo(line)
    if yes:
        typer.echo(upload(folder, to, private))
    else:
        typer.echo(f"Nothing was uploaded; add --yes to upload this to {to}.")


@show.command("prompt")
def show_prompt(
    dataset: Annotated[str, typer.Option(help="A dataset of the experiment.")],
    setting: Annotated[
        str | None,
        typer.Option(help='Such as "symbols, no instruction"; any by default.'),
    ] = None,
    number: Annotated[int, typer.Option(help="Which of the prompts, from 0.")] = 0,
) -> None:
    """Print a prompt with its symbols and its target marked.

    Of a tuning set it is a prompt of tuning_mixture, of an evaluation set one of eval.

    Example: symtune show prompt --dataset hotel_reviews --number 3
    """
    from rich.console import Console

    from symtune_pipeline.evaluation.suites import CLASSIFICATION
    from symtune_pipeline.show import evaluation_prompts, shown, tuning_prompts

    entry = current_experiment().dataset(dataset)
    store = _store()
    if entry.role == "tuning":
        mixture = store.read_table("tuning_mixture")
        examples = store.read_table("int_tuning_examples")
        prompts = tuning_prompts(mixture, examples, entry)
    else:
        suite = store.read_table("eval", name=CLASSIFICATION)
        examples = store.read_table("int_evaluation_examples")
        prompts = evaluation_prompts(suite, entry)
    console = Console(highlight=False)
    colour = console.is_terminal and not console.no_color
    console.print(shown(prompts, examples, entry, setting, number, colour), soft_wrap=True)


def main() -> None:
    """Run the command."""
    sys.exit(run_command(_run, "The command was interrupted."))


def _run() -> int:
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
