"""Planes: what is shown is linearly separable, balanced, and drawn by seed."""

from __future__ import annotations

import math

import polars as pl
import pytest

from symtune_pipeline.evaluation.suites import algorithmic_suite
from symtune_pipeline.sections import EvaluationConfig

SHOTS, QUERIES = 16, 16


@pytest.fixture(scope="module")
def planes() -> pl.DataFrame:
    config = EvaluationConfig(
        list_functions=0, turing_programs=0, concepts={"linear_classification": 24},
        algorithmic_shots=SHOTS, algorithmic_queries=QUERIES,
    )  # fmt: skip
    return algorithmic_suite(config, seed=0)


def _points(rows: pl.DataFrame) -> dict[tuple[int, ...], str]:
    """Every point of a concept with its label."""
    pairs = zip(rows["inputs"][0], rows["outputs"][0], strict=True)
    queries = zip(rows["query_input"], rows["target"], strict=True)
    return {tuple(map(int, text.split(", "))): label for text, label in [*pairs, *queries]}


def test_concepts_have_one_two_four_and_eight_dimensions_by_turns(planes: pl.DataFrame) -> None:
    for _, rows in planes.group_by("concept"):
        points = _points(rows)
        assert len(points) == SHOTS + QUERIES  # no query was shown
        (dimensions,) = {len(point) for point in points}
        assert set(rows["category"]) == {f"{dimensions} dimensions"}
        assert all(1 <= value <= 1_000 for point in points for value in point)
    sizes = planes.group_by("category").agg(pl.col("concept").n_unique())
    assert dict(sizes.iter_rows()) == {f"{n} dimensions": 6 for n in (1, 2, 4, 8)}


def test_half_of_the_points_that_are_shown_have_either_label(planes: pl.DataFrame) -> None:
    firsts = set()
    for _, rows in planes.group_by("concept"):
        shown = rows["outputs"][0].to_list()
        assert shown.count("Foo") == shown.count("Bar") == SHOTS // 2
        firsts.add(tuple(shown))
    assert len(firsts) > 20  # the order tells nothing
    share = (planes["target"] == "Foo").mean()
    assert 0.4 < share < 0.6


def test_a_number_more_never_crosses_back(planes: pl.DataFrame) -> None:
    """All weights are positive: of two points, one at least as large in all places is not below."""
    above = {}
    for (concept,), rows in planes.group_by("concept"):
        points = _points(rows)
        crossings = {
            (points[low], points[high])
            for low in points
            for high in points
            if low != high
            and points[low] != points[high]
            and all(a <= b for a, b in zip(low, high, strict=True))
        }
        assert len(crossings) <= 1
        above[concept] = crossings
    assert len(set().union(*above.values())) == 2  # `Foo` is above in some, `Bar` in others


def test_two_numbers_are_separated_by_a_line(planes: pl.DataFrame) -> None:
    for _, rows in planes.filter(category="2 dimensions").group_by("concept"):
        points = _points(rows)

        def separated(angle: float, points: dict[tuple[int, ...], str] = points) -> bool:
            by_side: dict[str, list[float]] = {"Foo": [], "Bar": []}
            for (x, y), label in points.items():
                by_side[label].append(x * math.cos(angle) + y * math.sin(angle))
            foo, bar = by_side["Foo"], by_side["Bar"]
            return max(foo) < min(bar) or max(bar) < min(foo)

        assert any(separated(step * math.pi / 20_000) for step in range(10_001))


def test_none_is_asked_unless_the_settings_say_so_and_then_no_other_changes() -> None:
    few = {"list_functions": 3, "turing_programs": 3}
    without = algorithmic_suite(EvaluationConfig(**few), seed=1)
    config = EvaluationConfig(**few, concepts={"linear_classification": 2})
    suite = algorithmic_suite(config, seed=1)
    assert set(without["benchmark"]) == {"list_functions", "turing_concepts"}
    assert suite.filter(pl.col("benchmark") != "linear_classification").equals(without)
    assert suite.equals(algorithmic_suite(config, seed=1))
    assert suite.filter(benchmark="linear_classification").n_unique("concept") == 2
