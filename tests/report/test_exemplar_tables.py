"""Several numbers of exemplars in the report: curves, tables, and settings in the order of the numbers."""

from __future__ import annotations

import io
import re
from typing import Any

import polars as pl
from marts import mart, pair, variant_marts
from rich.console import Console

from symtune_pipeline.report import page, plots, tables
from symtune_pipeline.report.exemplars import html_tables, print_exemplars
from symtune_pipeline.report.paper import paper_table
from symtune_pipeline.report.variants import grouped
from symtune_pipeline.tables import exemplars_setting

NO_BREAK = "\N{NO-BREAK SPACE}"
NUMBERS = (1, 2, 16)
SYMBOLS = "symbols, no instruction"


def curves(variants: tuple[str, ...] = ("untuned", "tuned")) -> pl.DataFrame:
    """The mart of exemplars: in each setting a variant gains a point with each number."""
    rows: list[dict[str, Any]] = [
        {
            "model": "smollm2-135m", "benchmark": benchmark, "setting": setting, "measure": measure,
            "variant": variant, "exemplars_per_class": number, "fewest": 1, "n": 440, "chance": 0.4,
            "accuracy": 0.5 + place / 100, "low": 0.45, "high": 0.55,
            "cluster_low": 0.4, "cluster_high": 0.6,
            "gain": place / 100 if place else None,
            "gain_cluster_low": -0.01 if place else None,
            "gain_cluster_high": 0.05 if place else None,
            "p": 0.02 if place else None,
        }
        for benchmark, setting in (("flipped", "100% flipped"), ("icl", SYMBOLS))
        for measure in ("accuracy", "calibrated")
        for variant in variants
        for place, number in enumerate(NUMBERS)
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def numbered(benchmark: str, setting: str, **more: Any) -> list[list[dict[str, Any]]]:
    """The rows of a mart for each number, in the order in which SQL sorts their names."""
    settings = sorted(exemplars_setting(setting, number) for number in NUMBERS)
    return [pair(benchmark, name, 0.5, 0.6, 0.01, **more) for name in settings]


def test_a_page_shows_every_number_and_what_the_most_gain() -> None:
    table = html_tables(curves())["exemplars"].replace(NO_BREAK, " ")
    assert [f"k = {number}" in table for number in NUMBERS] == [True] * 3
    assert table.count("+2.0 [-1.0, +5.0]") == 4  # two settings, two variants; not the calibrated
    assert table.index(SYMBOLS) < table.index("Flipped labels, 100% flipped")


def test_a_terminal_of_80_columns_shows_a_line_a_variant() -> None:
    text = io.StringIO()
    print_exemplars(Console(file=text, width=80), curves())
    lines = [line for line in text.getvalue().splitlines() if line]
    assert max(map(len, lines)) <= 80
    tuned = [line.split() for line in lines if line.startswith("tuned")]
    assert tuned == [["tuned", "0.50", "0.51", "0.52", "+2.0", "[-1.0,", "+5.0]", "0.020"]] * 2


def test_a_model_that_was_asked_with_other_numbers_has_its_own_cells() -> None:
    """As one has that was evaluated before the setting changed."""
    before = curves().filter(pl.col("exemplars_per_class") < 16)
    before = before.with_columns(
        model=pl.lit("a model"), accuracy=0.9, exemplars_per_class=pl.lit(8, pl.Int64)
    )
    before = before.unique(["benchmark", "setting", "measure", "variant"])
    table = html_tables(pl.concat([before, curves()]))["exemplars"]
    heads = re.findall(r">(k = \d+)<", table.replace(NO_BREAK, " "))
    assert heads == [f"k = {number}" for number in sorted((*NUMBERS, 8))]
    assert "None" not in table


def test_with_one_number_there_is_nothing_to_show() -> None:
    for none in (pl.DataFrame(), curves().clear()):
        assert html_tables(none) == {}
        text = io.StringIO()
        print_exemplars(Console(file=text), none)
        assert text.getvalue() == ""


def test_a_curve_has_a_line_and_a_colour_for_every_variant() -> None:
    many = ("untuned", "tuned", *(f"other{i}" for i in range(7)))
    rows = curves(many).filter(measure="accuracy", benchmark="icl")
    spec = plots.exemplars_chart(rows).to_dict()
    scale = spec["layer"][-1]["encoding"]["color"]["scale"]
    assert sorted(scale["domain"]) == sorted(many)
    assert scale["domain"][:2] == ["untuned", "tuned"]
    assert len(scale["range"]) == len(many)
    assert plots.to_png(plots.exemplars_chart(rows)).startswith(b"\x89PNG")


def test_charts_of_other_quantities_are_drawn_for_each_number() -> None:
    none = pl.DataFrame()
    sets = [
        [row | {"dataset": dataset} for row in rows]
        for dataset in ("plants", "stones")
        for rows in numbered("icl", SYMBOLS)
    ]
    flips = [
        [row | {"flipped_percent": percent} for row in rows]
        for percent in (0, 100)
        for rows in numbered("flipped", f"{percent}% flipped")
    ]
    figures = page.draw(
        summary=mart(*numbered("icl", SYMBOLS)),
        icl=mart(*sets, dataset=pl.String),
        flipped=mart(*flips, flipped_percent=pl.Int64),
        alignment=none,
        algorithmic=none,
        scaling=none,
        exemplars=curves(),
        reliability=none,
        training_log={},
    )
    names = [figure.name for figure in figures]
    for kind in ("flipped", "gains"):
        found = [name for name in names if name.startswith(kind)]
        assert found == [f"{kind}-smollm2-135m-k-{number}" for number in NUMBERS]
    assert "exemplars-smollm2-135m-symbols-no-instruction" in names


def test_settings_stand_in_the_order_of_the_numbers() -> None:
    summary = mart(*numbered("icl", SYMBOLS), *numbered("icl", "symbols, instruction"))
    settings = [pair.setting for pair in tables.comparisons(summary)]
    assert settings == [
        exemplars_setting(setting, number)
        for setting in ("symbols, instruction", SYMBOLS)
        for number in NUMBERS
    ]
    labels = [tables.setting_label("icl", setting) for setting in settings]
    assert labels == settings  # no benchmark's name before them
    of_variants = pl.concat(
        variant_marts()["variants"].with_columns(setting=pl.lit(exemplars_setting(SYMBOLS, number)))
        for number in (1, 16, 2)
    )
    assert [name for name, _ in grouped(of_variants)] == [
        exemplars_setting(SYMBOLS, number) for number in NUMBERS
    ]


def test_the_finding_names_the_fewest_and_the_most() -> None:
    _, *headlines = page.finding(mart(*numbered("icl", SYMBOLS)))
    openings = [sentence.split(":")[0] for sentence in headlines]
    assert openings == [
        "With symbols and no instruction, k = 1",
        "With symbols and no instruction, k = 16",
    ]


def test_every_number_stands_beside_the_paper() -> None:
    summary = mart(*numbered("icl", SYMBOLS))
    html = paper_table(summary).as_raw_html().replace(NO_BREAK, " ")
    every = [f"k = {number}: 50.0 → 60.0, +10.0 (p = 0.010)" for number in NUMBERS]
    assert "; ".join(every) in html
