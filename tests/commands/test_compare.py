"""`symtune compare`: results of several experiments on the questions that they have in common."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from conftest import ROOT, Ended, Home
from statsmodels.stats.contingency_tables import mcnemar

from symtune_pipeline.files import TABLE
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import CLASSIFICATION_SUITE

Compare = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = "from symtune_pipeline.commands.main import main; main()"
SETTING = "symbols, no instruction"


@pytest.fixture
def home(smoke_run: tuple[Home, Ended], tmp_path: Path) -> Home:
    """The smoke run, and beside it one of another rate that is right on every question."""
    home = smoke_run[0].copy(tmp_path / "copy")
    other = Store(home.store.root.with_name("other"))
    shutil.copytree(home.store.root, other.root)
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    settings["tuning"] |= {"learning_rate": 0.5}
    (home.folder / "other.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    answers = other.read_table("eval_icl", "micro")
    with other.writing("eval_icl", "micro") as folder:
        tuned = pl.col("variant") == "tuned"
        right = answers.with_columns(correct=tuned | pl.col("correct"))
        right.write_parquet(folder / TABLE)
    return home


@pytest.fixture
def compare(home: Home) -> Compare:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", COMMAND, "compare", "smoke", *arguments]
        return subprocess.run(
            command, cwd=home.folder, env=home.environment, capture_output=True, text=True, check=False
        )  # fmt: skip

    return run


def test_two_runs_are_paired_on_what_both_were_asked(
    home: Home, compare: Compare, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    ended = compare("other.yaml", "--page", str(page))
    assert ended.returncode == 0, ended.stderr
    assert "tuning.learning_rate" in ended.stdout and "other: 0.5" in ended.stdout
    assert "mixture" not in ended.stdout, "only what differs is shown"

    here = home.store.read_table("eval_icl", "micro").filter(variant="tuned", setting=SETTING)
    wrong, n = int((~here["correct"]).sum()), len(here)
    table = ended.stdout.split(f"{SETTING} ")[1]
    (line,) = (line for line in table.splitlines()[:6] if line.strip().startswith("other"))
    p = float(mcnemar([[0, wrong], [0, 0]], exact=True).pvalue)
    assert line.split()[:2] == ["other", str(n)]
    assert "1.00 [" in line and f"+{100 * wrong / n:.1f}" in line
    assert ("<0.001" if p < 0.001 else f"{p:.3f}") in line
    shown = page.read_text(encoding="utf-8")
    assert "tuning.learning_rate" in shown and f"+{100 * wrong / n:.1f}" in shown
    assert not re.search("https?://", shown), "the page asks no one for anything"


def make_suite_anew(home: Home, column: str, changed: pl.Expr) -> None:
    """Of the other run, with another value in a column of one setting."""
    other = Store(home.store.root.with_name("other"))
    kept = other.folder("eval")
    with other.writing("eval") as folder:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        suite = pl.read_parquet(folder / CLASSIFICATION_SUITE.file)
        value = pl.when(pl.col("setting") == SETTING).then(changed).otherwise(column)
        suite.with_columns(value.alias(column)).write_parquet(folder / CLASSIFICATION_SUITE.file)


def test_questions_that_only_one_run_was_asked_are_not_paired(home: Home, compare: Compare) -> None:
    make_suite_anew(home, "format", pl.col("format") + 1)
    ended = compare("other.yaml")
    assert ended.returncode == 0, ended.stderr
    table = ended.stdout.split(f"{SETTING} ")[1]
    (line,) = (line for line in table.splitlines()[:6] if line.strip().startswith("other"))
    assert line.split()[-1] == "0", "none in common, so no gain and no test"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Name two experiments or more"),
        (("smoke",), "Name two experiments or more"),
        (("quickstart",), "No model was evaluated in all of smoke, quickstart"),
        (("nowhere.yaml",), "nowhere.yaml cannot be read"),
        (("other.yaml", "--model", "smollm2-135m"), "smollm2-135m"),
        (("other.yaml", "--page", "nowhere/page.html"), "nowhere/page.html is no file in a folder"),
        (("other.yaml", "--page", "."), "--page . is no file in a folder that exists"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    compare: Compare, arguments: tuple[str, ...], sentence: str
) -> None:
    ended = compare(*arguments)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and sentence in line


def test_answers_to_earlier_questions_are_refused(home: Home, compare: Compare) -> None:
    """The suite was made anew with other labels, and the model not asked again."""
    make_suite_anew(home, "labels", pl.col("labels").list.reverse())
    ended = compare("other.yaml")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: The answers of 'other' are to other questions than those of its")


def test_two_runs_of_one_name_are_one_sentence(home: Home, compare: Compare) -> None:
    """A variant is called after its experiment, which may be what another one is called."""
    for name, settings in (("other", {"variants": {"b": {"seed": 1}}}), ("other-b", {})):
        written = yaml.safe_load((home.folder / "other.yaml").read_text(encoding="utf-8"))
        (home.folder / f"{name}.yaml").write_text(yaml.safe_dump(written | settings))
    ended = compare("other.yaml", "other-b.yaml")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: Two of what is compared are called 'other-b'")
