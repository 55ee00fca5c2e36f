"""The tables of variants, on a page and in a terminal, and their absence where there are none."""

from __future__ import annotations

import io

import polars as pl
from marts import variant_marts
from rich.console import Console

from symtune_pipeline.report.variants import html_tables, print_variants

NO_BREAK = "\N{NO-BREAK SPACE}"


def test_a_page_shows_every_variant_and_what_seeds_have_in_common() -> None:
    tables = html_tables(**variant_marts())
    shown = tables["variants"].replace(NO_BREAK, " ")
    for figure in ("0.64 [0.59, 0.69]", "+14.0 [+6.0, +21.0]", "+4.0 [-4.0, +11.0]"):
        assert shown.count(figure) == 1  # calibrated choices are in another table
    assert "+12.0 [+4.0, +20.0]" in tables["seeds"].replace(NO_BREAK, " ")


def test_without_variants_there_is_no_table() -> None:
    assert html_tables(pl.DataFrame(), pl.DataFrame()) == {}
    empty = {name: mart.clear() for name, mart in variant_marts().items()}
    assert html_tables(**empty) == {}
    console = Console(file=io.StringIO(), width=80)
    print_variants(console, **empty)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_terminal_of_80_columns_shows_whole_rows() -> None:
    text = io.StringIO()
    print_variants(Console(file=text, width=80), **variant_marts())
    lines = [line for line in text.getvalue().splitlines() if line]
    assert max(map(len, lines)) <= 80
    (final,) = (line for line in lines if line.startswith("final"))
    assert final.split() == [
        "final",
        "0.55",
        "+5.0",
        "[-3.0,",
        "+12.0]",
        "-5.0",
        "[-13.0,",
        "+2.0]",
    ]
    assert "tuned" in lines[-1] and "+12.0 [+4.0, +20.0]" in lines[-1]
