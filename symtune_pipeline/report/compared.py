"""Answers of several runs to the same questions: accuracies side by side, gains, and paired tests.

It knows nothing about where a run's answers are kept. Units: as in `tables`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from symtune_pipeline.report.robustness import plain_table
from symtune_pipeline.report.tables import (
    OVER_DRAWS,
    Row,
    accuracy_text,
    as_html,
    gain_text,
    in_order,
    p_text,
    setting_label,
)
from symtune_pipeline.sql.statistics import (
    cluster_high,
    cluster_low,
    mcnemar_p,
    wilson_high,
    wilson_low,
)

if TYPE_CHECKING:
    from rich.console import Console

QUESTION = "question"  # equal where two runs were asked the same
FIGURES = ("n", "accuracy", "in common", "points", "p")
DRAWS = 10  # fewer draws of exemplars do not tell how draws differ


@dataclass(frozen=True)
class Line:
    """A run's accuracy in a setting, and its gain over the first run's."""

    run: str
    row: Row


def compared(answers: Mapping[str, pl.DataFrame]) -> Iterator[tuple[str, list[Line]]]:
    """By setting, the lines of all runs that were asked in it; the first run's has no gain.

    `answers` has a frame a run, with a row a question: benchmark, setting, dataset, context, `QUESTION`,
    correct. A gain, its interval and p are over the questions that both runs were asked, and `common`
    counts them; without any there is none.
    """
    first, *_ = answers.values()
    for benchmark, setting in _settings(first):
        asked = {
            run: frame.filter(benchmark=benchmark, setting=setting)
            for run, frame in answers.items()
        }
        here = asked[next(iter(asked))]
        lines = [
            Line(run, _figures(frame) if frame is here else _figures(frame) | _gain(frame, here))
            for run, frame in asked.items()
            if not frame.is_empty()
        ]
        yield setting_label(benchmark, setting), lines


def left_out(answers: Mapping[str, pl.DataFrame]) -> Iterator[str]:
    """A sentence for each run with settings that the first was not asked in, and that have no table."""
    first, *others = answers
    here = set(_settings(answers[first]))
    for run in others:
        own = [setting_label(*each) for each in _settings(answers[run]) if each not in here]
        if own:
            yield f"{run} was asked in settings that {first} was not: {'; '.join(own)}."


def _settings(frame: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """Benchmark and setting of all answers, in the order of tables."""
    settings = frame.select("benchmark", "setting").unique(maintain_order=True)
    known = settings.with_columns(model=pl.lit(""), variant=pl.lit(""))
    yield from in_order(known).select("benchmark", "setting").iter_rows()


def print_compared(console: Console, answers: Mapping[str, pl.DataFrame]) -> None:
    """Print a table a setting, of at most 80 columns for runs of up to 16 letters."""
    from rich.text import Text

    first = next(iter(answers))
    for setting, lines in compared(answers):
        table = plain_table(setting, FIGURES)
        for line in lines:
            table.add_row(*map(Text, (line.run, *_texts(line.row))))
        console.print("", table)
    console.print(f"\nPoints and p: against {first}, on the questions in common.")
    for sentence in left_out(answers):
        console.print(sentence, markup=False, highlight=False)


def compared_html(answers: Mapping[str, pl.DataFrame]) -> str:
    """The same as one HTML table and paragraphs, escaped."""
    from great_tables import GT

    body = [
        {"setting": setting, "run": line.run, **dict(zip(FIGURES, _texts(line.row), strict=True))}
        for setting, lines in compared(answers)
        for line in lines
    ]
    table = GT(pl.DataFrame(body), groupname_col="setting")
    beside = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in left_out(answers))
    return as_html("compared", table.cols_align("right", list(FIGURES))) + beside


def _texts(row: Row) -> tuple[str, ...]:
    """The texts of `FIGURES`."""
    common = f"{row['common']:,}" if "common" in row else ""
    return (
        f"{row['n']:,}",
        accuracy_text(row),
        common,
        gain_text(row, OVER_DRAWS),
        p_text(row.get("p")),
    )


def _figures(answers: pl.DataFrame) -> Row:
    right, n = int(answers["correct"].sum()), len(answers)
    low, high = wilson_low(right, n), wilson_high(right, n)
    return {"n": n, "accuracy": right / n, "low": low, "high": high}


def _gain(answers: pl.DataFrame, first: pl.DataFrame) -> Row:
    """The gain over the first run, with the interval over draws and the test."""
    both = answers.join(first, on=QUESTION, suffix="_first").with_columns(
        more=pl.col("correct").cast(pl.Int64) - pl.col("correct_first").cast(pl.Int64)
    )
    if both.is_empty():
        return {"common": 0}
    draws = both.group_by("dataset", "context").agg(pl.col("more").sum(), asked=pl.len())
    draws = draws.sort("dataset", "context")
    of_draws = draws["more"].to_list(), draws["asked"].to_list()
    enough = len(draws) >= DRAWS
    return {
        "common": len(both),
        "gain": both["more"].sum() / len(both),
        f"{OVER_DRAWS}_low": cluster_low(*of_draws) if enough else None,
        f"{OVER_DRAWS}_high": cluster_high(*of_draws) if enough else None,
        "p": mcnemar_p(int((both["more"] == 1).sum()), int((both["more"] == -1).sum())),
    }
