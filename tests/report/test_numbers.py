"""Results as numbers with names."""

from __future__ import annotations

import pytest
from marts import mart, pair

from symtune_pipeline.report.numbers import of_summary


def test_a_setting_has_the_accuracy_of_each_variant_and_its_gain() -> None:
    summary = mart(
        pair("icl", "symbols, instruction", 0.5, 0.625, p=0.1),
        pair("list_functions", "fresh", 0.25, 0.125, p=0.1, chance=None),
    )
    assert of_summary(summary) == pytest.approx(
        {
            "symbols, instruction: accuracy untuned": 0.5,
            "symbols, instruction: accuracy tuned": 0.625,
            "symbols, instruction: gain in points": 12.5,
            "List functions, fresh: accuracy untuned": 0.25,
            "List functions, fresh: accuracy tuned": 0.125,
            "List functions, fresh: gain in points": -12.5,
        }
    )


def test_numbers_of_several_models_say_which() -> None:
    setting = ("icl", "symbols, instruction")
    summary = mart(
        pair(*setting, 0.5, 0.625, p=0.1), pair(*setting, 0.25, 0.5, p=0.1, model="gemma3-270m")
    )
    numbers = of_summary(summary)
    assert len(numbers) == 6
    assert numbers["gemma3-270m, symbols, instruction: gain in points"] == 25


def test_where_one_variant_answered_there_is_no_gain() -> None:
    alone = mart(pair("icl", "symbols, instruction", 0.5, 0.625, p=0.1)).head(1)
    assert of_summary(alone) == {"symbols, instruction: accuracy untuned": 0.5}
    assert of_summary(alone.clear()) == {}
