"""The tables of docs/results.md and of the README are those that the kept outcomes give."""

import dataclasses

import polars as pl
import pytest

from benchmarks.kept import read
from benchmarks.results_page import PAGES, models, with_tables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_is_what_the_kept_outcomes_give(page):
    text = page.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `make results`"


def test_a_cell_is_the_share_of_right_answers():
    kept = read("two-models")
    asked = kept.outcomes.filter(
        model="gemma3-270m", setting="symbols, no instruction", measure="accuracy"
    )
    before, after = (asked.filter(variant=v)["correct"].mean() for v in ("untuned", "tuned"))
    assert f"{before:.2f} → {after:.2f}" in models(kept)
    none = kept.outcomes.with_columns(correct=pl.lit(False))
    assert f"{before:.2f} → {after:.2f}" not in models(dataclasses.replace(kept, outcomes=none))
