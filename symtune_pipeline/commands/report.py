"""`symtune report`: prints the latest results and the path of the HTML report."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.console import Console

from symtune_pipeline.commands.common import current_store
from symtune_pipeline.errors import UserError
from symtune_pipeline.progress import duration
from symtune_pipeline.report.exemplars import print_exemplars
from symtune_pipeline.report.finetuned import print_finetuned
from symtune_pipeline.report.robustness import print_robustness
from symtune_pipeline.report.tables import print_summary
from symtune_pipeline.report.variants import print_variants
from symtune_pipeline.store.folder import Store

BEHIND = ("mart_calibrated", "mart_alignment", "mart_language")
COMPARED = ("mart_variants", "mart_seeds")
EXEMPLARS, FINETUNED = "mart_exemplars", "mart_finetuned"


def report(
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the report in a browser.")
    ] = False,
) -> None:
    """Print the latest results and the path of the HTML report.

    Example: symtune report --open
    """
    page = print_report(current_store())
    if open_page and not webbrowser.open(page.as_uri()):
        raise UserError(f"No browser can be started here; open {page} in one of yours.")


def print_report(store: Store) -> Path:
    """Print the latest results and the path of the HTML report, and return this path.

    Raises UserError where no report was made.
    """
    page = store.folder("eval_report") / "index.html"
    console = Console(width=None if sys.stdout.isatty() else 120)
    print_summary(console, store.read_table("mart_summary"))
    if all(map(store.find, BEHIND)):  # a report of an earlier version has none of them
        print_robustness(console, *map(store.read_table, BEHIND))
    if all(map(store.find, COMPARED)):
        print_variants(console, *map(store.read_table, COMPARED))
    if store.find(EXEMPLARS):
        print_exemplars(console, store.read_table(EXEMPLARS))
    if store.find(FINETUNED):
        print_finetuned(console, store.read_table(FINETUNED))
    for model in store.partitions("tuning_log"):
        line = cost(model, store.read_table("tuning_log", model))
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"Report: {page}", soft_wrap=True, markup=False)
    return page


def cost(model: str, log: pl.DataFrame) -> str:
    """What the fine-tune of a model took, in a line; not on the page, which has the same bytes each time."""
    if "tokens" not in log.columns:  # of an earlier version
        return f"Tuning of {model}: its log does not tell"
    last = log.sort("step").row(-1, named=True)
    speed, memory = log.select(
        pl.col("tokens_per_second").median(), pl.col("memory_gib").max()
    ).row(0)
    told = [
        f"{duration(last['seconds'])} for {last['tokens']:,} tokens in {last['step']:,} steps",
        *([f"{speed:,.0f} tokens per second"] if speed is not None else []),
        *([f"{memory:.1f} GiB of memory"] if memory is not None else []),
    ]
    return f"Tuning of {model}: {', '.join(told)}"
