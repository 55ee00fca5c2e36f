"""Four ways to ask in the report: the table of the page, and that of a terminal."""

from __future__ import annotations

import io
from typing import Any

import polars as pl
from rich.console import Console

from symtune_pipeline.report.finetuned import html_tables, print_finetuned

NO_BREAK = "\N{NO-BREAK SPACE}"
WAYS = ("zero-shot", "in context", "fine-tuned", "both")


def ways(model: str = "smollm2-135m") -> pl.DataFrame:
    """The mart: with each way a variant gains ten points."""
    rows: list[dict[str, Any]] = [
        {
            "model": model, "variant": variant, "setting": setting, "way": way, "n": 440,
            "chance": 0.4, "accuracy": 0.5 + place / 10, "low": 0.45, "high": 0.55,
            "gain": place / 10 if place else None,
            "gain_cluster_low": place / 10 - 0.05 if place else None,
            "gain_cluster_high": place / 10 + 0.05 if place else None,
            "p": 0.02 if place else None, "changed": 120,
            **{name: share if place % 2 else None for name, share in
               (("alike", 0.62), ("alike_low", 0.53), ("alike_high", 0.7))},
        }
        for setting in ("relevant labels, no instruction", "symbols, no instruction")
        for variant in ("again", "tuned", "untuned")  # as SQL sorts them
        for place, way in enumerate(WAYS)
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def test_a_page_shows_every_way_and_how_far_answers_are_alike() -> None:
    table = html_tables(ways())["finetuned"].replace(NO_BREAK, " ")
    assert table.count("+30.0 [+25.0, +35.0]") == 6
    assert table.count("0.62 [0.53, 0.70] of 120") == 12
    assert [table.count(f">{way}<") for way in WAYS] == [6] * 4
    assert table.index(">untuned<") < table.index(">tuned<") < table.index(">again<")


def test_a_terminal_of_80_columns_shows_a_line_a_way() -> None:
    text = io.StringIO()
    print_finetuned(Console(file=text, width=80), ways())
    lines = [line for line in text.getvalue().splitlines() if line]
    assert max(map(len, lines)) <= 80
    assert sum("untuned, in context" in line and "0.60" in line for line in lines) == 2


def test_models_are_named_where_there_are_several() -> None:
    both = pl.concat([ways(), ways("gemma3-270m")])
    assert "gemma3-270m: symbols, no instruction" in html_tables(both)["finetuned"]


def test_an_empty_mart_gives_no_table() -> None:
    text = io.StringIO()
    print_finetuned(Console(file=text), pl.DataFrame())
    assert html_tables(pl.DataFrame()) == {} and not text.getvalue()
