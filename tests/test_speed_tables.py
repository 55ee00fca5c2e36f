"""Every figure in a table of speeds is one that the benchmark of its section has kept."""

from __future__ import annotations

import json
import re

import pytest
from conftest import ROOT

from benchmarks.common import RESULTS

BENCHMARKS = sorted(path.stem for path in RESULTS.glob("*.json"))
FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)?")


def figures(section: str) -> list[str]:
    """The cells of a section's tables that are nothing but figures."""
    cells = [
        cell.strip().rstrip("%")
        for line in section.splitlines()
        if line.startswith("|")
        for cell in re.split(r"[|]|, (?=\d+\.)", line)
    ]
    return [cell for cell in cells if FIGURE.fullmatch(cell)]


def kept(*benchmarks: str) -> tuple[list[float], str]:
    """What the benchmarks measured, and how much better or worse that is; and the names of it all."""
    records = [
        record
        for name in benchmarks
        for record in json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    ]
    values = [record[key] for record in records for key in ("ours", "peer", "ratio")]
    there = [value for value in values if value]
    return there + [1 / value for value in there], " ".join(each["measure"] for each in records)


def unknown(section: str, *benchmarks: str) -> list[str]:
    """The figures that are neither measured, as far as they are written out, nor a measure's name."""
    values, names = kept(*benchmarks)
    return [
        cell
        for cell in figures(section)
        if cell not in FIGURE.findall(names)
        and cell.replace(",", "")
        not in {f"{value:.{len(cell.partition('.')[2])}f}" for value in values}
    ]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_results_are_those_that_the_benchmark_kept(name: str) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (section,) = (each for each in page.split("\n## ") if f"make bench-{name}" in each)
    assert len(figures(section)) > 4
    assert unknown(section, name) == []


def test_the_readme_says_the_same() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("Speed with ")[2].partition("\n## ")[0]
    assert len(figures(section)) > 9
    assert unknown(section, "tuning", "scoring", "gpu") == []
