"""`symtune compare`: results of several experiments on the questions that they have in common."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from conftest import ROOT, Home
from statsmodels.stats.contingency_tables import mcnemar

from symtune_pipeline.catalog.datasets import find_dataset
from symtune_pipeline.evaluation.asked import keep_questions, questions
from symtune_pipeline.evaluation.predictions import by_context, generated, of_model, ranked
from symtune_pipeline.evaluation.suites import algorithmic_suite, classification_suite
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.report.settings import keep_settings
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import ALGORITHMIC_SUITE, CLASSIFICATION_SUITE, exemplars_setting

Compare = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = "from symtune_pipeline.commands.main import main; main()"
SETTING = "symbols, no instruction"
EXAMPLES = "int_evaluation_examples"
CONFIG = EvaluationConfig(
    contexts=2, queries=6, exemplars_per_class=2, list_functions=2, turing_programs=2
)


def evaluated(store: Store, examples: pl.DataFrame, pool: pl.DataFrame) -> None:
    """Suites and what two variants of `micro` answered: always the first label, and nothing."""
    instructions = {key: find_dataset(key).instruction for key in set(examples["dataset"])}
    suite = classification_suite(examples, pool, instructions, CONFIG, seed=0)
    algorithmic = algorithmic_suite(CONFIG, seed=0)
    with store.writing(EXAMPLES) as folder:
        examples.write_parquet(folder / TABLE)
    with store.writing("eval") as folder:
        suite.write_parquet(folder / CLASSIFICATION_SUITE.file)
        algorithmic.write_parquet(folder / ALGORITHMIC_SUITE.file)
    for asset, benchmark in (("eval_icl", "icl"), ("eval_flipped", "flipped")):
        asked = suite.filter(benchmark=benchmark)
        contexts, _ = by_context(asked, examples["input"].to_list())
        said = [[[-float(n) for n in range(len(row["labels"]))] for row in c] for c in contexts]
        answer(store, asset, ranked(asked, said, [0] * len(contexts), "plain"))
    answer(store, "eval_algorithmic", generated(algorithmic, [""] * len(algorithmic), "plain"))


def answer(store: Store, asset: str, table: pl.DataFrame) -> None:
    suite = ALGORITHMIC_SUITE if asset == "eval_algorithmic" else CLASSIFICATION_SUITE
    with store.writing(asset, "micro") as folder:
        both = [of_model(table, "micro", variant) for variant in ("untuned", "tuned")]
        pl.concat(both).write_parquet(folder / TABLE)
        keep_questions(questions(store, suite, EXAMPLES), folder)


def report(store: Store, *changes: str, file: str = "smoke") -> None:
    """Keep the settings of an experiment as a run with `--set` does."""
    with store.writing("eval_report") as folder:
        keep_settings(load_experiment(file, changes), folder)


@pytest.fixture
def home(tmp_path: Path, evaluation_examples: pl.DataFrame, symbols: pl.DataFrame) -> Home:
    """The smoke experiment's results, and beside them those of another rate, right on every question."""
    home = Home(tmp_path / "copy")
    evaluated(home.store, evaluation_examples, symbols)
    report(home.store)
    other = other_store(home)
    shutil.copytree(home.store.root, other.root)
    write_other(home, tuning={"learning_rate": 0.5})
    report(other, file=str(home.folder / "other.yaml"))
    kept = other.folder("eval_icl", "micro")
    answers = other.read_table("eval_icl", "micro")
    with other.writing("eval_icl", "micro") as folder:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        tuned = pl.col("variant") == "tuned"
        right = answers.with_columns(correct=tuned | pl.col("correct"))
        right.write_parquet(folder / TABLE)
    return home


def other_store(home: Home) -> Store:
    return Store(home.store.root.with_name("other"))


def write_other(home: Home, name: str = "other", **sections: dict[str, Any]) -> None:
    """An experiment file: that of smoke with some settings of its own."""
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    for section, own in sections.items():
        settings[section] = settings.get(section, {}) | own
    (home.folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


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
    other = other_store(home)
    kept = other.folder("eval")
    with other.writing("eval") as folder:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        suite = pl.read_parquet(folder / CLASSIFICATION_SUITE.file)
        value = pl.when(pl.col("setting") == SETTING).then(changed).otherwise(column)
        suite.with_columns(value.alias(column)).write_parquet(folder / CLASSIFICATION_SUITE.file)


def ask_again(home: Home) -> None:
    """The other run's model has answered the suites as they are now."""
    other = other_store(home)
    for asset in ("eval_icl", "eval_flipped"):
        kept = other.folder(asset, "micro")
        with other.writing(asset, "micro") as folder:
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            keep_questions(questions(other, CLASSIFICATION_SUITE, EXAMPLES), folder)


def test_questions_that_only_one_run_was_asked_are_not_paired(home: Home, compare: Compare) -> None:
    make_suite_anew(home, "format", pl.col("format") + 1)
    ask_again(home)
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


@pytest.mark.parametrize(
    ("column", "changed"),
    [
        ("labels", pl.col("labels").list.reverse()),
        ("format", pl.col("format") + 1),
        ("exemplars", pl.col("exemplars").list.reverse()),
        ("exemplar_targets", pl.col("exemplar_targets").list.reverse()),
        ("instruction", pl.lit("What is it?")),
    ],
)
def test_answers_to_earlier_questions_are_refused(
    home: Home, compare: Compare, column: str, changed: pl.Expr
) -> None:
    """The suite was made anew with other prompts, and the model not asked again."""
    make_suite_anew(home, column, changed)
    refused(compare("other.yaml"))


def test_answers_to_questions_of_earlier_texts_are_refused(home: Home, compare: Compare) -> None:
    """The suite refers to examples by number, and these have other texts now."""
    other = other_store(home)
    examples = other.read_table(EXAMPLES)
    with other.writing(EXAMPLES) as folder:
        examples.with_columns(pl.col("input") + "!").write_parquet(folder / TABLE)
    refused(compare("other.yaml"))


def refused(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: The answers of 'other' are to other questions than those of its")


def test_the_settings_are_those_that_made_the_results(home: Home, compare: Compare) -> None:
    """A run with --set, or a file that was edited since: either way the file has other settings."""
    report(other_store(home), "tuning.learning_rate=0.25", file=str(home.folder / "other.yaml"))
    ended = compare("other.yaml")
    assert ended.returncode == 0, ended.stderr
    assert "other: 0.25\n" in ended.stdout and "other: 0.5\n" not in ended.stdout
    (line,) = ended.stderr.splitlines()
    assert line.startswith("warning: other.yaml has other settings now than when its results were")
    assert "(tuning.learning_rate); run it again" in line


def test_results_whose_settings_are_not_known_are_one_sentence(
    home: Home, compare: Compare
) -> None:
    """A report that an earlier version made."""
    with other_store(home).writing("eval_report") as folder:
        (folder / "index.html").write_text("")
    ended = compare("other.yaml")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "does not say which settings made it" in line


def test_settings_that_only_another_run_was_asked_in_are_named(
    home: Home, compare: Compare, tmp_path: Path
) -> None:
    other, asked = other_store(home), exemplars_setting(SETTING, 4)
    renamed = pl.col("setting").replace({SETTING: asked})
    make_suite_anew(home, "setting", renamed)
    ask_again(home)
    kept, answers = other.folder("eval_icl", "micro"), other.read_table("eval_icl", "micro")
    with other.writing("eval_icl", "micro") as folder:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        answers.with_columns(renamed).write_parquet(folder / TABLE)
    page = tmp_path / "page.html"
    ended = compare("other.yaml", "--page", str(page))
    assert ended.returncode == 0, ended.stderr
    sentence = f"other was asked in settings that smoke was not: {asked}."
    assert sentence in " ".join(ended.stdout.split())
    assert sentence in page.read_text(encoding="utf-8")


def test_two_runs_of_one_name_are_one_sentence(home: Home, compare: Compare) -> None:
    """A variant is called after its experiment, which may be what another one is called."""
    write_other(home, variants={"b": {"seed": 1}})
    write_other(home, "other-b")
    shutil.copytree(other_store(home).root, home.store.root.with_name("other-b"))
    for name in ("other", "other-b"):
        report(Store(home.store.root.with_name(name)), file=str(home.folder / f"{name}.yaml"))
    ended = compare("other.yaml", "other-b.yaml")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: Two of what is compared are called 'other-b'")
