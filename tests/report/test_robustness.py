"""What stands behind a gain, on the page and in a terminal of 80 columns."""

from __future__ import annotations

import polars as pl
from marts import robustness_marts
from rich.console import Console

from symtune_pipeline.report import robustness


def printed(width: int = 80, **changes: pl.DataFrame) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        robustness.print_robustness(console, **robustness_marts() | changes)
    return capture.get().splitlines()


def test_a_terminal_of_80_columns_shows_every_line_whole() -> None:
    lines = printed()
    assert max(map(len, lines)) <= 80
    (calibrated,) = [line for line in lines if line.startswith("symbols, no instruction")]
    assert calibrated.split() == [
        *("symbols,", "no", "instruction", "440", "0.55", "0.60"),
        *("+5.0", "[-3.0,", "+12.0]", "0.200"),
    ]
    overriding = [line for line in lines if line.startswith("override rate")]
    assert len(overriding) == 2, "of all sets, and of those with two labels"
    assert all(
        line.split()[-5:] == ["0.20", "-10.0", "[-18.0,", "-3.0]", "0.040"] for line in overriding
    )
    assert sum(line.startswith("100% flipped, two labels ") for line in lines) == 1
    assert lines[-1].split() == [
        *("smollm2-135m", "1,200", "3.500", "3.750", "+0.250", "[+0.200,", "+0.300]")
    ]


def test_nothing_is_printed_of_what_was_not_measured() -> None:
    empty = {name: mart.clear() for name, mart in robustness_marts().items()}
    assert printed(**empty) == []
    assert robustness.html_tables(**empty) == {}
    lines = printed(alignment=empty["alignment"], language=empty["language"])
    assert len(lines) == 5 and not any("plain texts" in line for line in lines)


def test_the_page_has_raw_and_calibrated_labels_side_by_side_in_this_order() -> None:
    html = robustness.html_tables(**robustness_marts())
    assert list(html) == ["calibrated", "alignment", "language"]
    table = html["calibrated"]
    assert table.index(">raw<") < table.index(">calibrated<")
    assert table.count(">raw<") == table.count(">calibrated<") == 2
    assert "plants" not in table, "single sets are in the mart only"
    assert "plants" in html["language"] and "all datasets" in html["language"]


def test_channel_choices_are_shown_where_they_were_asked() -> None:
    calibrated = robustness_marts()["calibrated"]
    asked = calibrated.filter(choice="raw").with_columns(choice=pl.lit("channel"))
    lines = printed(calibrated=pl.concat([calibrated, asked]))
    assert max(map(len, lines)) <= 80
    (start,) = [i for i, line in enumerate(lines) if line.startswith("query after each label")]
    assert lines[start + 2].split()[:6] == ["symbols,", "no", "instruction", "440", "0.50", "0.60"]
    html = robustness.html_tables(
        **robustness_marts() | {"calibrated": pl.concat([asked, calibrated])}
    )
    table = html["calibrated"]
    assert table.index(">raw<") < table.index(">calibrated<") < table.index(">channel<")
    assert not any(line.startswith("query after") for line in printed()), "it was not asked"


def test_models_are_named_where_there_are_several() -> None:
    one, other = robustness_marts("micro"), robustness_marts("smollm2-135m")
    both = {name: pl.concat([other[name], one[name]]) for name in one}
    lines = printed(**both)
    titles = [line.split()[0] for line in lines if "labels calibrated" in line]
    assert titles == ["micro:", "smollm2-135m:"]
    html = robustness.html_tables(**both)
    for table in html.values():
        assert table.index("micro") < table.index("smollm2-135m")


def test_a_pretrained_model_has_a_column_where_it_was_measured() -> None:
    calibrated = robustness_marts()["calibrated"]
    pretrained = calibrated.filter(variant="untuned").with_columns(variant=pl.lit("pretrained"))
    lines = printed(calibrated=pl.concat([calibrated, pretrained]))
    assert "pretrained" in lines[1] and max(map(len, lines)) <= 80


def test_where_variants_count_other_queries_each_number_is_shown() -> None:
    alignment = robustness_marts()["alignment"].with_columns(
        n=pl.when(measure="override", variant="tuned").then(25).otherwise("n")
    )
    (line, _) = [line for line in printed(alignment=alignment) if line.startswith("override rate")]
    assert line.split()[2:5] == ["440", "/", "25"]
    html = robustness.html_tables(**robustness_marts() | {"alignment": alignment})["alignment"]
    assert html.count(">440 / 25<") == 2
    language = robustness_marts()["language"].with_columns(
        tokens=pl.when(variant="tuned").then(1_100).otherwise("tokens")
    )
    assert "1,200 / 1,100" in printed(language=language)[-1]
