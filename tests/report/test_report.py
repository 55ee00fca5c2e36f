"""The report shows the marts' own figures, stands alone, and is the same for the same input."""

from __future__ import annotations

import io
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from marts import SCHEMA, answer_tables, calibration_marts, mart, pair, robustness_marts
from rich.console import Console
from sql_rows import predictions, running

from symtune_pipeline.errors import UserError
from symtune_pipeline.report import calibration, page, paper, plots, tables
from symtune_pipeline.report.confusion import confusion_html
from symtune_pipeline.tables import ALGORITHMIC_SUITE, TUNING_LOG, benchmarks_of, flipped_setting

ODD = "<script>alert('odd & \"bad\"')</script>"
ODD_IN_LINE = " ".join(ODD.split())
OVER_DRAWS = {"low": 0.01, "high": 0.17}
NOT_DRAWN = ("choices", "confusion", "answers")
ICL_SETTINGS = {
    "symbols, no instruction": (0.523, 0.614, 0.003),
    "symbols, instruction": (0.541, 0.602, 0.04),
    "relevant labels, no instruction": (0.655, 0.662, 0.81),
    "relevant labels, instruction": (0.773, 0.701, 0.0004),
}


def scaling(*models: str) -> pl.DataFrame:
    """The mart of scaling in two settings; each model has ten times the parameters of the one before."""
    rows = [
        row
        | {
            "flops_per_token": 2 * 10**power,
            "as_good_untuned": models[-1] if row["variant"] == "tuned" and power == 6 else None,
            "as_good_flops": 10.0 ** (len(models) - 1) if power == 6 else None,
        }
        for power, model in enumerate(models, start=6)
        for setting in ("symbols, instruction", "symbols, no instruction")
        for row in pair("icl", setting, 0.5, 0.6, 0.01, model=model)
    ]
    sizes = {"flops_per_token": pl.Int64, "as_good_untuned": pl.String, "as_good_flops": pl.Float64}
    return pl.DataFrame(rows, schema={**SCHEMA, **sizes})


def marts(model: str = "smollm2-135m", dataset: str = "plants") -> dict[str, Any]:
    """Everything that write_report asks for, small."""
    settings = [
        pair("icl", setting, *figures, model=model) for setting, figures in ICL_SETTINGS.items()
    ]
    sets = [
        pair("icl", setting, *figures, model=model, dataset=name)
        for setting, figures in ICL_SETTINGS.items()
        for name in ("weather", dataset)
    ]
    flips = [
        pair(
            "flipped",
            f"{percent}% flipped",
            *(0.8 - percent / 250, 0.8 - percent / 500, 0.02),
            model=model,
            flipped_percent=percent,
        )
        for percent in (0, 50, 100)
    ]
    lists = [
        pair("list_functions", "fresh", 0.05, 0.08, 0.2, None, model, category=category)
        for category in ("identity", "sorting")
    ]
    summary = [
        *settings,
        pair("flipped", "100% flipped", 0.4, 0.6, 1e-9, 0.5, model),
        pair("list_functions", "fresh", 0.05, 0.08, 0.2, None, model),
    ]
    steps = range(40)
    log = TUNING_LOG.frame(
        [
            {"step": step, "loss": 3 / (1 + step), "symbol_accuracy": step / 40}
            | {"symbol_chance": 0.4, "kept": step == 39}
            for step in steps
        ]
    )
    return {
        "summary": mart(*summary),
        "icl": mart(*sets, dataset=pl.String),
        "flipped": mart(*flips, flipped_percent=pl.Int64),
        "algorithmic": mart(*lists, category=pl.String),
        "scaling": scaling(model),
        **robustness_marts(model, dataset),
        "variants": pl.DataFrame(),
        "seeds": pl.DataFrame(),
        "exemplars": pl.DataFrame(),
        "finetuned": pl.DataFrame(),
        **calibration_marts(model),
        **answer_tables(model, dataset),
        "training_log": {model: log},
        "provenance": {"seed": 7, "model": {"sha256": "ab12", "note": ODD}, "sets": ["a", "b"]},
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written report whose names are as odd as names can be."""
    folder = tmp_path_factory.mktemp("report") / "page"
    page.write_report(folder, **marts(dataset=ODD))
    return folder


class Elements(HTMLParser):
    """The elements of a page, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.text.append(data)


def printed(table: Any, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_page_fetches_nothing(report: Path) -> None:
    html = (report / "index.html").read_text()
    elements = Elements(html).found
    assert not [attrs for _, attrs in elements if "src" in attrs or "href" in attrs]
    assert not [tag for tag, _ in elements if tag in ("link", "iframe", "img", "object", "base")]
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL))
    assert "url(" not in styles and "@import" not in styles
    policy = [attrs["content"] for tag, attrs in elements if tag == "meta" and "content" in attrs]
    assert any("default-src 'none'" in str(content) for content in policy)


def test_the_chart_library_is_in_the_page_once(report: Path) -> None:
    html = (report / "index.html").read_text()
    assert html.count("window.vegaEmbed") == 1
    assert len(html) < 1_500_000


def test_every_chart_is_on_the_page_and_a_png(report: Path) -> None:
    elements = Elements((report / "index.html").read_text()).found
    charts = {str(attrs["id"]) for _, attrs in elements if attrs.get("class") == "chart"}
    kinds = (
        "settings",
        "reliability",
        "flipped",
        "alignment",
        "gains",
        "algorithmic",
        "loss",
        "symbols",
    )
    assert charts == {f"{kind}-smollm2-135m" for kind in kinds}
    assert {image.stem for image in report.glob("*.png")} == charts
    for image in report.glob("*.png"):
        content = image.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", content[16:24])
        assert width > 600 and height > 100


def test_every_chart_is_told_in_words_too(report: Path) -> None:
    elements = Elements((report / "index.html").read_text()).found
    told = {a["id"]: str(a["aria-label"]) for _, a in elements if a.get("class") == "chart"}
    assert all(words.startswith("smollm2-135m. ") for words in told.values())
    for row in marts()["summary"].iter_rows(named=True):
        label = tables.setting_label(row["benchmark"], row["setting"])
        figure = f"{label}, {row['variant']} {row['accuracy']:.2f}"
        assert figure in told["settings-smollm2-135m"]
    assert "50, tuned 0.70; " in told["flipped-smollm2-135m"]
    assert "plants" not in told["gains-smollm2-135m"] and "weather, " in told["gains-smollm2-135m"]
    assert "at step 39 loss 0.075" in told["loss-smollm2-135m"]
    assert "at step 0 symbol accuracy 0.000, symbol chance 0.400" in told["symbols-smollm2-135m"]


def test_reliability_and_the_commonest_choice_stand_behind_the_calibration_error(
    report: Path,
) -> None:
    parsed = Elements((report / "index.html").read_text())
    told = {a["id"]: str(a["aria-label"]) for _, a in parsed.found if a.get("class") == "chart"}
    words = told["reliability-smollm2-135m"]
    assert "Reliability: symbols, no instruction: confidence 0.55, tuned 0.65;" in words
    text = " ".join("".join(parsed.text).split())
    assert "setting untuned tuned right labels symbols, no instruction 0.90 0.55 0.50" in text
    none = pl.DataFrame()
    assert calibration.html_tables(none) == {}


def test_confusions_have_the_counts_of_the_mart_and_the_share_of_the_commonest_choice(
    report: Path,
) -> None:
    text = " ".join("".join(Elements((report / "index.html").read_text()).text).split())
    counts = "right ↓ answered →badgood bad73 good09"
    assert f"{ODD_IN_LINE} relevant labels, no instruction, untuned {counts}" in text
    assert f"symbols, no instruction, tuned {counts}" in text
    of_plants = confusion_html(answer_tables()["confusion"], calibration_marts()["choices"])
    shares = "commonest choice 0.90, of the right labels 0.50"
    assert f"symbols, no instruction, untuned · {shares}" in of_plants
    assert confusion_html(pl.DataFrame(), pl.DataFrame()) == ""


def test_of_several_numbers_of_exemplars_the_confusion_of_the_most_is_shown() -> None:
    numbered = [
        answer_tables()["confusion"].with_columns(
            pl.format("{}, k = {}", "setting", pl.lit(k)).alias("setting"), n=pl.lit(k)
        )
        for k in (2, 16, 4)
    ]
    html = confusion_html(pl.concat(numbered), pl.DataFrame())
    assert "k = 16" in html and "k = 4" not in html and "k = 2" not in html


def test_no_text_of_a_chart_is_smaller_than_12_pixels(report: Path) -> None:
    html = (report / "index.html").read_text()
    (specs,) = re.findall(r"^const specs = (.*);$", html, flags=re.MULTILINE)
    for spec in json.loads(specs).values():
        config = spec["config"]
        sizes = [size for part in ("axis", "legend", "text") for size in config[part].values()]
        assert sizes and min(sizes) >= 12
        assert spec["background"] is None  # the page's own ground, in the light and in the dark


def test_the_same_input_gives_the_same_bytes(report: Path, tmp_path: Path) -> None:
    shuffled = marts(dataset=ODD)
    shuffled["summary"] = shuffled["summary"].reverse()
    page.write_report(tmp_path, **shuffled)
    written = {path.name: path.read_bytes() for path in report.iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_odd_names_are_text_and_never_markup(report: Path) -> None:
    html = (report / "index.html").read_text()
    parsed = Elements(html)
    assert ODD not in html
    assert ODD in "".join(parsed.text)  # the parser has turned the escapes back
    assert [tag for tag, _ in parsed.found].count("script") == 3


def test_the_page_shows_the_figures_of_the_frame(report: Path) -> None:
    text = "".join(Elements((report / "index.html").read_text()).text)
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    for row in marts()["summary"].iter_rows(named=True):
        assert f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" in text
        if row["gain"] is not None:
            ends = (row["gain_cluster_low"], row["gain_cluster_high"])
            low, high = (f"{100 * end:+.1f}" for end in ends)
            assert f"{100 * row['gain']:+.1f} [{low}, {high}]" in text
    assert "0.20 → 0.10" in text


def test_the_json_holds_the_figures_of_the_frame_unrounded(report: Path) -> None:
    summary = marts()["summary"]
    records = json.loads((report / "summary.json").read_text())
    assert len(records) == summary.height
    for record in records:
        same = [pl.col(key) == record[key] for key in ("benchmark", "setting", "variant")]
        row = summary.filter(*same).row(0, named=True)
        assert record == {key: row[key] for key in record}
        paired = {"gain", "gain_cluster_low", "gain_cluster_high", "p"}
        assert paired & set(record) == (paired if record["variant"] == "tuned" else set())


def summary_at(width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    tables.print_summary(console, marts()["summary"])
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_terminal_table_keeps_a_setting_on_a_line() -> None:
    lines = summary_at(120).splitlines()
    line = next(line for line in lines if "symbols, no instruction" in line)
    assert re.split(r"\s{2,}|(?<=\])\s", line.strip()) == [
        *("symbols, no instruction", "440", "0.52 [0.48, 0.57]", "0.61 [0.57, 0.66]", "0.40"),
        *("+9.1 [+1.1, +16.1]", "0.003"),
    ]
    assert any("relevant labels, no instruction" in line and "0.810" in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_shows_the_same_with_every_name_and_interval_whole(width: int) -> None:
    lines = summary_at(width).splitlines()
    assert max(map(len, lines)) <= width
    at = lines.index("symbols, no instruction  n 440, chance 0.40")
    assert lines[at + 1 : at + 3] == [
        "  untuned 0.52 [0.48, 0.57], tuned 0.61 [0.57, 0.66]",
        "  points +9.1 [+1.1, +16.1], p 0.003",
    ]
    whole = summary_at(120)
    for interval in re.findall(r"\[.*?\]", whole):
        assert any(interval in line for line in lines)


def test_models_are_named_only_where_there_are_several() -> None:
    one, other = marts()["summary"], marts(model="[bold]big")["summary"]
    assert "smollm2-135m" not in printed(tables.terminal_table(one))
    both = pl.concat([one, other])
    assert {"smollm2-135m", "[bold]big"} <= set(
        map(str.strip, printed(tables.terminal_table(both)).splitlines())
    )
    none = pl.DataFrame()
    html = tables.html_tables(summary=both, icl=none, algorithmic=none, scaling=none)["settings"]
    assert "smollm2-135m" in html and "[bold]big" in html


def test_models_stand_side_by_side_small_ones_first(tmp_path: Path) -> None:
    small, large = marts("micro"), marts("smollm2-135m")
    both = {
        name: pl.concat([large[name], small[name]])
        for name in ("summary", "icl", "flipped", "algorithmic", *robustness_marts())
    }
    logs = large["training_log"]  # tuning elsewhere left none for the other
    page.write_report(
        tmp_path,
        **both,
        variants=pl.DataFrame(),
        seeds=pl.DataFrame(),
        exemplars=pl.DataFrame(),
        finetuned=pl.DataFrame(),
        reliability=pl.DataFrame(),
        choices=pl.DataFrame(),
        confusion=pl.DataFrame(),
        answers=large["answers"],
        scaling=scaling("micro", "smollm2-135m").reverse(),
        training_log=logs,
        provenance={},
    )
    html = (tmp_path / "index.html").read_text()
    charts = [a["id"] for _, a in Elements(html).found if a.get("class") == "chart"]
    assert charts == [
        *("settings-micro", "settings-smollm2-135m", "flipped-micro", "flipped-smollm2-135m"),
        *("alignment-micro", "alignment-smollm2-135m"),
        *("scaling-symbols-instruction", "scaling-symbols-no-instruction"),
        *("gains-micro", "gains-smollm2-135m", "algorithmic-micro", "algorithmic-smollm2-135m"),
        "loss-smollm2-135m",
        "symbols-smollm2-135m",
    ]
    assert {image.stem for image in tmp_path.glob("*.png")} == set(charts)
    assert html.index("<strong>micro</strong>") < html.index("<strong>smollm2-135m</strong>")


def test_a_tuned_model_stands_beside_the_untuned_one_that_it_replaces() -> None:
    none = pl.DataFrame()
    frames = {"summary": marts()["summary"], "icl": none, "algorithmic": none}
    assert "scaling" not in tables.html_tables(**frames, scaling=scaling("micro"))
    html = tables.html_tables(**frames, scaling=scaling("micro", "smollm2-135m"))["scaling"]
    text = " ".join("".join(Elements(html).text).replace("\N{NO-BREAK SPACE}", " ").split())
    assert text.count("symbols, instruction") == text.count("symbols, no instruction") == 1
    row = "micro 0.002 0.50 [0.45, 0.55] 0.60 [0.55, 0.65] smollm2-135m (10x FLOPs)"
    other = "smollm2-135m 0.02 0.50 [0.45, 0.55] 0.60 [0.55, 0.65] none"
    assert text.count(f"{row} {other}") == 2


@pytest.mark.parametrize(("percent", "text"), [(None, "none"), (100, "none"), (0, ""), (75, "")])
def test_no_model_is_as_good_at_flips_that_a_good_one_does_not_follow(
    percent: int | None, text: str
) -> None:
    assert tables.as_good_text({"as_good_untuned": None, "flipped_percent": percent}) == text


def test_the_terminal_table_has_a_column_for_a_pretrained_model_where_there_is_one() -> None:
    summary = marts()["summary"]
    pretrained = summary.filter(variant="untuned").with_columns(variant=pl.lit("pretrained"))
    assert "pretrained" not in printed(tables.terminal_table(summary))
    with_it = printed(tables.terminal_table(pl.concat([summary, pretrained])))
    assert "pretrained" in with_it.splitlines()[0] and max(map(len, with_it.splitlines())) <= 120


def test_settings_come_in_reading_order_whatever_order_the_mart_has() -> None:
    settings = [row.setting for row in tables.comparisons(marts()["summary"].reverse())]
    assert settings == [*tables.IN_CONTEXT, "100% flipped", "fresh"]


def test_the_finding_says_what_got_better_and_what_got_worse() -> None:
    verdict, symbols, _, relevant = page.finding(marts()["summary"])
    assert verdict == (
        "Of 6 settings, symbol tuning improved 2 and worsened 1 (relevant labels, instruction),"
        " counting those whose 95% interval over draws of exemplars excludes 0 and whose p is below 0.05."
    )
    assert symbols == (
        "With symbols and no instruction: accuracy 0.52 → 0.61, +9.1 [+1.1, +16.1] points (n = 440)."
    )
    assert "0.77 → 0.70, -7.2 [-15.2, -0.2] points (n" in relevant


def test_the_finding_does_not_count_flips_that_a_good_model_does_not_follow() -> None:
    """At 0% the flipped label is wrong by what is shown, and at 50% nothing says which one is right."""
    flips = [
        pair("flipped", f"{percent}% flipped", 0.5, tuned, 1e-9, flipped_percent=percent)
        for percent, tuned in ((0, 0.1), (50, 0.7), (75, 0.8), (100, 0.9))
    ]
    verdict, headline = page.finding(mart(*flips))
    assert verdict.startswith("Of 2 settings, symbol tuning improved 2 and worsened 0, ")
    assert verdict.endswith(" Settings with half of the labels flipped or fewer are not counted.")
    assert headline.startswith("With all labels flipped: accuracy 0.50 → 0.90")


@pytest.mark.parametrize(
    ("interval", "why"),
    [((-0.02, 0.12), "not significant"), ((None, None), "too few draws for an interval")],
)
def test_the_finding_claims_nothing_that_other_draws_could_turn(
    interval: tuple[float | None, float | None], why: str
) -> None:
    """However small the p of a test that takes queries for independent is."""
    over_draws = dict(zip(("gain_cluster_low", "gain_cluster_high"), interval, strict=True))
    summary = mart(pair("icl", "symbols, no instruction", 0.5, 0.55, 0.001, **over_draws))
    verdict, headline = page.finding(summary)
    assert "improved 0 and worsened 0" in verdict
    assert f"points ({why}, n = 440)" in headline
    assert verdict.endswith("too few draws for an interval: 1.") == (interval == (None, None))


@pytest.mark.parametrize("clear", [True, False])
def test_the_finding_claims_nothing_that_the_exact_test_does_not_find(
    clear: bool, tmp_path: Path
) -> None:
    """Of 80 queries in 40 contexts, tuning turns 4 right in as many contexts, p = 0.125, or 6."""
    changed = 6 if clear else 4
    answers = [
        row
        for context in range(40)
        for variant, first in (("untuned", "0"), ("tuned", str(int(context < changed))))
        for row in predictions(variant, first + "0", context=context)
    ]
    rows = running(tmp_path)("mart_summary", eval_icl=answers)
    (tuned,) = [row for row in rows if row["variant"] == "tuned"]
    assert tuned["gain_cluster_low"] > 0 and tuned["p"] == 2 / 2**changed
    verdict, headline = page.finding(pl.DataFrame(rows, infer_schema_length=None))
    assert f"improved {int(clear)} and worsened 0" in verdict
    assert ("not significant" in headline) == (not clear)


def test_the_finding_of_an_untested_model_says_so() -> None:
    untuned = marts()["summary"].filter(pl.col("variant") == "untuned")
    (sentence,) = page.finding(untuned)
    assert "No setting was measured on both" in sentence


def test_the_pretrained_model_is_shown_where_it_was_measured() -> None:
    summary = marts()["summary"]
    none = pl.DataFrame()
    without = tables.html_tables(summary=summary, icl=none, algorithmic=none, scaling=none)[
        "settings"
    ]
    pretrained = summary.filter(pl.col("variant") == "untuned").with_columns(
        variant=pl.lit("pretrained"), accuracy=pl.lit(0.315)
    )
    both = pl.concat([summary, pretrained])
    with_it = tables.html_tables(summary=both, icl=none, algorithmic=none, scaling=none)["settings"]
    assert "pretrained" not in without
    assert "pretrained" in with_it and "0.32 [" in with_it


def test_empty_marts_are_left_out(tmp_path: Path) -> None:
    inputs = marts()
    for name in (
        "icl",
        "flipped",
        "algorithmic",
        "scaling",
        *robustness_marts(),
        *calibration_marts(),
    ):
        inputs[name] = inputs[name].clear()
    page.write_report(tmp_path, **{**inputs, "training_log": {}})
    assert [path.name for path in tmp_path.glob("*.png")] == ["settings-smollm2-135m.png"]
    html = (tmp_path / "index.html").read_text()
    assert "by category" not in html and "Compared with the paper" in html
    assert "plain texts" not in html and "Zhao" not in html and "prior or prompt" not in html


@pytest.mark.parametrize("source", ["package", "hub", "made by this project"])
def test_a_model_whose_weights_are_not_the_hubs_says_so_beside_its_finding(
    source: str, tmp_path: Path
) -> None:
    inputs = marts()
    origin = {"source": source, "repository": "a/b", "revision": "c"}
    origin |= {"package": "tiny-weights==1.0", "file": "tiny.Q4_1.gguf"}
    inputs["provenance"] = {"models": {"smollm2-135m": {"base model": origin}}}
    page.write_report(tmp_path, **inputs)
    text = "".join(Elements((tmp_path / "index.html").read_text()).text)
    before, words, _ = text.partition(
        "Its weights are quantised ones from the Python package tiny-weights==1.0 (tiny.Q4_1.gguf),"
        " because no hub answered."
    )
    assert bool(words) == (source == "package")
    assert "Its weights" not in (before if words else text)
    assert not words or "By setting" not in before


def test_a_report_on_nothing_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    inputs = marts()
    inputs["summary"] = inputs["summary"].clear()
    with pytest.raises(UserError, match="The summary has no row"):
        page.write_report(tmp_path / "page", **inputs)
    assert not (tmp_path / "page").exists()


def test_the_flipped_curve_needs_more_than_one_percentage() -> None:
    inputs = marts()
    for name in (
        "provenance",
        "calibrated",
        "language",
        "variants",
        "seeds",
        "finetuned",
        *NOT_DRAWN,
    ):
        del inputs[name]
    inputs["flipped"] = inputs["flipped"].filter(pl.col("flipped_percent") == 100)
    assert "flipped-smollm2-135m" not in [figure.name for figure in page.draw(**inputs)]


def test_our_gains_stand_beside_the_papers() -> None:
    """Of in-context learning the means over datasets, which the rest of the report does not show."""
    accuracy = pl.when(variant="tuned").then(0.6).otherwise(0.5)
    summary = marts()["summary"].with_columns(
        pl.when(benchmark="icl")
        .then(pl.struct(mean_accuracy=accuracy, mean_gain=0.1))
        .struct.unnest()
    )
    html = paper.paper_table(summary).as_raw_html()
    text = " ".join("".join(Elements(html).text).replace("\N{NO-BREAK SPACE}", " ").split())
    symbols = "Symbols, no instruction 44.2 → 52.8 50.5 → 60.3 51.0 → 62.1 58.1 → 63.6"
    assert f"{symbols} 50.0 → 60.0, +10.0 (p = 0.003)" in text
    assert "List functions † 19.2 → 37.4" in text  # what was not checked is marked
    assert "not measured" in text  # Turing concepts are not in this mart
    assert "2305.08298" in text


def test_beside_the_paper_a_dataset_of_few_queries_counts_as_much_as_one_of_many(
    tmp_path: Path,
) -> None:
    """Of two classes, 30 queries, 0 → 10 of which are right; of four classes, 10, 8 → 6 of which are."""
    right = {"large": (0, 10, 30, 0.5), "small": (8, 6, 10, 0.25)}
    answers = [
        row
        for dataset, (untuned, tuned, n, chance) in right.items()
        for variant, found in (("untuned", untuned), ("tuned", tuned))
        for row in predictions(
            variant, "1" * found + "0" * (n - found), dataset=dataset, chance=chance
        )
    ]
    rows = running(tmp_path)("int_scores", "mart_summary", eval_icl=answers)
    summary = pl.DataFrame(rows, infer_schema_length=None)
    assert summary.filter(variant="tuned")["gain"].item() == 8 / 40
    html = paper.paper_table(summary).as_raw_html()
    text = " ".join("".join(Elements(html).text).replace("\N{NO-BREAK SPACE}", " ").split())
    assert "58.1 → 63.6 40.0 → 46.7, +6.7 (p = " in text
    assert "means over datasets, too" in text and "our chance is 37.5." in text


def test_the_papers_gains_are_those_of_its_accuracies() -> None:
    facts = paper.paper()
    rows = {row["result"]: row["figures"] for row in facts["results"]}
    before, after = map(float, rows["List functions"]["8B"].split(" → "))
    assert after - before == pytest.approx(float(rows["List functions, gain"]["8B"]))
    assert all(set(figures) <= set(facts["models"]) for figures in rows.values())


def test_the_papers_rows_name_settings_that_the_pipeline_has() -> None:
    inputs = set(ALGORITHMIC_SUITE.columns["setting"].allowed)
    known = {key: inputs for key in benchmarks_of("algorithmic")}
    known |= {"icl": set(tables.IN_CONTEXT), "flipped": {flipped_setting(100)}}
    for row in paper.paper()["results"]:
        if "ours" in row:
            assert set(row["ours"]["settings"]) <= known[row["ours"]["benchmark"]]


CHARTS = {
    "summary": plots.settings_chart,
    "algorithmic": plots.category_chart,
    "alignment": plots.alignment_chart,
    "flipped": plots.flipped_chart,
    "scaling": plots.scaling_chart,
    "icl": plots.gains_chart,
}


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("enough", [True, False])
def test_a_chart_names_its_interval_which_is_over_draws_where_there_are_enough(
    name: str, enough: bool
) -> None:
    of, factor = ("gain_", 100) if name == "icl" else ("", 1)
    known = {"low": 0.2, "high": 0.3, "cluster_low": 0.1, "cluster_high": 0.4}
    if not enough:
        known |= {"cluster_low": None, "cluster_high": None}
    mart = marts()[name].with_columns(
        pl.lit(value, pl.Float64).alias(of + end) for end, value in known.items()
    )
    spec = CHARTS[name](mart).to_dict()
    rows = [row for data in spec["datasets"].values() for row in data if f"{of}low" in row]
    shown = {(row[f"{of}low"] / factor, row[f"{of}high"] / factor) for row in rows}
    assert shown == {(0.1, 0.4) if enough else (0.2, 0.3)}
    words = "over draws" if enough else "over queries"
    assert f'"95% interval {words}"]' in json.dumps(spec)


def test_a_chart_with_both_kinds_of_intervals_names_both_and_tells_each() -> None:
    few = pl.col("benchmark") == "flipped"
    mart = marts()["summary"].with_columns(
        pl.when(~few).then(pl.col(f"cluster_{end}")).alias(f"cluster_{end}")
        for end in ("low", "high")
    )
    spec = plots.settings_chart(mart).to_dict()
    assert '"95% interval over draws or over queries"]' in json.dumps(spec)
    rows = [row for data in spec["datasets"].values() for row in data]
    found = {row["row"] for row in rows if row["interval"] == "over queries"}
    assert found == {"Flipped labels, 100% flipped"}


def test_a_diverged_training_run_can_still_be_drawn() -> None:
    log = pl.DataFrame({"step": [0, 1, 2], "loss": [3.0, float("nan"), 2.0]})
    chart = plots.loss_chart(log)
    assert "NaN" not in json.dumps(chart.to_dict())
    assert plots.to_png(chart)


def test_a_tuning_without_held_out_prompts_has_no_chart_of_symbols(tmp_path: Path) -> None:
    inputs = marts()
    logs = {
        model: log.with_columns(symbol_accuracy=None)
        for model, log in inputs["training_log"].items()
    }
    page.write_report(tmp_path, **{**inputs, "training_log": logs})
    assert list(tmp_path.glob("loss-*.png"))
    assert not list(tmp_path.glob("symbols-*.png"))


def test_a_long_training_log_keeps_the_page_light() -> None:
    log = pl.DataFrame({"step": range(50_000), "loss": [1.0] * 50_000})
    (drawn,) = plots.loss_chart(log).to_dict()["datasets"].values()
    assert 1_000 <= len(drawn) <= plots.MAX_POINTS


@pytest.mark.parametrize(
    ("gain", "text"), [(0.0912, "+9.1"), (-0.2, "-20.0"), (-0.0001, "+0.0"), (None, "")]
)
def test_a_gain_is_shown_in_signed_points(gain: float | None, text: str) -> None:
    assert tables.points_text(gain) == text


def test_a_gain_without_an_interval_is_shown_alone() -> None:
    row = {"gain": 0.1, "gain_low": 0.05, "gain_high": 0.15, "gain_cluster_low": None}
    assert tables.gain_text(row, tables.OVER_QUERIES) == "+10.0 [+5.0, +15.0]"
    assert tables.gain_text(row, tables.OVER_DRAWS) == "+10.0"


@pytest.mark.parametrize(("draws", "shown"), [(True, "[+1.0, +17.0]"), (False, "[+5.0, +13.0]")])
@pytest.mark.parametrize(("name", "detail"), [("sets", "icl"), ("algorithmic", "algorithmic")])
def test_a_table_by_dataset_or_category_has_the_interval_over_draws_where_there_are_enough(
    name: str, detail: str, draws: bool, shown: str
) -> None:
    known = {"gain": 0.09, "gain_low": 0.05, "gain_high": 0.13}
    known |= {f"gain_cluster_{end}": value if draws else None for end, value in OVER_DRAWS.items()}
    rows = marts()[detail].filter(variant="tuned")
    rows = rows.with_columns(pl.lit(value, pl.Float64).alias(key) for key, value in known.items())
    frames = {"icl": pl.DataFrame(), "algorithmic": pl.DataFrame(), detail: rows}
    html = tables.html_tables(summary=marts()["summary"], scaling=pl.DataFrame(), **frames)[name]
    assert html.replace("\N{NO-BREAK SPACE}", " ").count(shown) == rows.height


def test_only_the_table_of_sets_shows_a_corrected_p() -> None:
    inputs = marts()
    sets = inputs["icl"].with_columns(p_holm=pl.lit(0.777))
    html = tables.html_tables(
        summary=inputs["summary"], icl=sets, algorithmic=pl.DataFrame(), scaling=pl.DataFrame()
    )
    assert "p, Holm" in html["sets"] and "0.777" in html["sets"]
    assert "p, Holm" not in html["settings"]


@pytest.mark.parametrize(("p", "text"), [(0.0004, "<0.001"), (0.05, "0.050"), (None, "")])
def test_a_small_p_is_never_shown_as_zero(p: float | None, text: str) -> None:
    assert tables.p_text(p) == text


def test_the_page_says_at_its_top_what_was_run_and_folds_where_it_comes_from(
    tmp_path: Path,
) -> None:
    inputs = marts()
    inputs["provenance"] = {
        "experiment": {
            "name": "quick <start>",
            "evaluation": {"queries": 20, "protocol": "shared"},
        },
        "datasets": {"a": "generated; MIT", "b": "generated; MIT", "c": "x/y at 12; CC0"},
    }
    log = pl.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "tokens": [1_000, 2_345]})
    inputs["training_log"] = {"smollm2-135m": log}
    page.write_report(tmp_path, **inputs)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    top = html[: html.index("<main>")]
    for fact in (
        "experiment quick &lt;start&gt;",
        "data: 2 generated datasets, 1 public dataset",
        "smollm2-135m tuned on 2,345 tokens in 2 steps",
        "20 queries per context or dataset, shared exemplars",
    ):
        assert fact in top
    folded = html[html.index(">Provenance<") :]
    tables_of = re.findall(r"<details class=\"origin\">\s*<summary>(.*?)</summary>", folded)
    assert tables_of == ["experiment", "datasets"]
    assert folded.count('<table class="provenance">') == 2
