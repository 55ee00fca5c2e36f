"""`symtune init`: what it finds in a file, what it asks, what it refuses, and that its experiment runs."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import SYMTUNE, Ended, Home
from typer.testing import CliRunner

from symtune_pipeline.catalog.own import OwnDataset
from symtune_pipeline.commands.app import app
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.store.folder import Store

Row = Mapping[str, Any]
GOOD, BAD = "I liked chair number {} a lot", "The lamp number {} was broken, sadly"


def reviews(rows: int = 12, **more: Sequence[object]) -> list[dict[str, Any]]:
    """Rows with a text and stars, and with further columns where they are given by value of the stars."""
    texts = ((BAD, 1), (GOOD, 5))
    return [
        {"text": text.format(row), "stars": stars} | {name: of[stars > 1] for name, of in more.items()}
        for row in range(rows)
        for text, stars in [texts[row % 2]]
    ]  # fmt: skip


def write(path: Path, rows: Sequence[Row]) -> Path:
    """The rows in the format that the file's name says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        pl.DataFrame(rows).write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


def init(data: Path, *options: str) -> str:
    """What `symtune init mine.yaml` says beside the data."""
    command = ["init", str(data.parent / "mine.yaml"), "--data", str(data), *options]
    ended = CliRunner().invoke(app, command, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def described(folder: Path) -> OwnDataset:
    (own,) = load_experiment(str(folder / "mine.yaml")).data.own.values()
    return own


@pytest.mark.parametrize("name", ["my reviews.csv", "my.tsv", "a.jsonl", "9.parquet"])
def test_text_and_label_are_found_in_every_format(name: str, tmp_path: Path) -> None:
    said = init(write(tmp_path / name, reviews()))
    found = described(tmp_path)
    assert (found.columns, found.label_column) == (("text",), "stars")
    assert found.labels == {"1": "1", "5": "5"}
    assert "12 examples" in said and "1 (6), 5 (6)" in said
    # With fewer draws of exemplars there are no bootstrap intervals.
    assert load_experiment(str(tmp_path / "mine.yaml")).evaluation.contexts == 10


@pytest.mark.parametrize(
    ("rows", "columns", "label", "labels"),
    [
        (reviews(word=("bad", "good")), ("text",), "stars", {"1": "bad", "5": "good"}),
        (reviews(label=("no", "yes")), ("text",), "label", {"no": "no", "yes": "yes"}),
        (reviews(label=(False, True)), ("text",), "label", {"false": "false", "true": "true"}),
        (reviews(label=("1.0e5", "010")), ("text",), "label", {"1.0e5": "1.0e5", "010": "010"}),
        (
            reviews(label=('a: "b" #c', "[x]")),
            ("text",),
            "label",
            {'a: "b" #c': 'a: "b" #c', "[x]": "[x]"},
        ),
        (
            [row | {"title": f"A title of some words {i}"} for i, row in enumerate(reviews())],
            ("text", "title"),
            "stars",
            {"1": "1", "5": "5"},
        ),
    ],
    ids=["a word for each number", "words", "truth values", "texts like numbers", "signs", "two texts"],
)  # fmt: skip
def test_labels_are_guessed(
    rows: list[Row], columns: Any, label: str, labels: dict[str, str], tmp_path: Path
) -> None:
    init(write(tmp_path / "data.jsonl", rows))
    found = described(tmp_path)
    assert (found.columns, found.label_column, found.labels) == (columns, label, labels)


def test_ids_empty_labels_and_small_classes_are_heeded(tmp_path: Path) -> None:
    rows = [row | {"id": f"a{i}"} for i, row in enumerate(reviews(5))]
    rows += [{"text": "no opinion here", "stars": None, "id": "x"}]
    said = init(write(tmp_path / "data.jsonl", rows), "--role", "tuning", "--model", "micro")
    experiment = load_experiment(str(tmp_path / "mine.yaml"))
    found = described(tmp_path)
    assert (found.id_column, found.unlabelled, found.role) == ("id", (None,), "tuning")
    assert "5 examples" in said
    # Half of the two examples of the rarest class are for queries.
    assert (experiment.models, experiment.evaluation.exemplars_per_class) == (("micro",), 1)


def test_columns_can_be_named(tmp_path: Path) -> None:
    init(
        write(tmp_path / "d.csv", reviews(place=("x", "y"))), "--text", "place", "--label", "stars"
    )
    assert described(tmp_path).columns == ("place",)


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ([{"text": "a b c", "n": 1}, {"text": "d e f", "n": 2}], (), "with --label"),
        (reviews(), ("--label", "starz"), "has no column 'starz'; choose one of text, stars"),
        (reviews(), ("--text", "stars"), "the input would show the label"),
        (reviews(), ("--label", "stars", "--text", "nope"), "has no column 'nope'"),
        (reviews(), ("--model", "nope"), "There is no model 'nope' in the catalogue"),
        ([{"n": 1, "stars": i % 2} for i in range(8)], (), "name one with --text"),
        ([*reviews(), {"text": "x" * 100_001, "stars": 1}], (), "line 13: the text in 'text' has"),
        ([*reviews(), {"stars": 1}], (), "line 13 has no 'text'"),
        ([], (), "holds no row"),
        (
            [row | {"kind": ""} for row in reviews()],
            ("--label", "kind"),
            "has no label, and a task",
        ),
        (
            [row | {"kind": "a"} for row in reviews()],
            ("--label", "kind"),
            "has only one label, and",
        ),
    ],
)
def test_what_cannot_run_is_refused_and_nothing_is_written(
    rows: list[Row], options: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        init(write(tmp_path / "data.jsonl", rows), *options)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "mine.yaml").exists()


def test_columns_without_a_text_are_left_out(tmp_path: Path) -> None:
    rows = pl.DataFrame(reviews()).with_columns(
        code=pl.lit(b"\xff\xfe"), took=pl.lit(timedelta(seconds=3)), parts=pl.lit([1, 2])
    )
    rows.write_parquet(tmp_path / "data.parquet")
    init(tmp_path / "data.parquet")
    assert described(tmp_path).columns == ("text",)


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    data = write(tmp_path / "data.csv", reviews())
    with pytest.raises(UserError, match=r"nowhere is no folder; make it first"):
        CliRunner().invoke(
            app,
            ["init", str(tmp_path / "nowhere" / "mine.yaml"), "--data", str(data)],
            catch_exceptions=False,
        )
    (tmp_path / "mine.yaml").write_text("my own")
    with pytest.raises(UserError, match=r"mine\.yaml is there already"):
        init(data)
    assert (tmp_path / "mine.yaml").read_text() == "my own"
    with pytest.raises(UserError, match=r"must end with \.yaml"):
        CliRunner().invoke(app, ["init", "mine", "--data", str(data)], catch_exceptions=False)


def test_on_a_terminal_the_guess_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "data.csv", reviews())
    ours, theirs = pty.openpty()
    command = [SYMTUNE, "init", "mine.yaml", "--data", "data.csv"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs) as asking:
        os.write(ours, b"\n\nbad\n\n")
        assert asking.wait(60) == 0
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    assert "Which column has the label? [stars]" in said and "Which columns are the input?" in said
    found = described(tmp_path)
    assert (found.label_column, found.columns) == ("stars", ("text",))
    assert found.labels == {"1": "bad", "5": "5"}


@pytest.mark.slow
def test_what_it_writes_runs(smoke_run: tuple[Home, Ended], tmp_path: Path) -> None:
    """Beside few other sets, to be quick."""
    init(write(tmp_path / "data.csv", reviews(30)), "--model", "micro")
    home = Home(tmp_path)
    store = Store(home.folder / "home" / "mine")
    shutil.copytree(smoke_run[0].store.root / "base_model", store.root / "base_model")
    small = (
        *(
            "data.datasets=[hotel_reviews, phone_reviews]",
            "data.train_rows=30",
            "data.test_rows=10",
        ),
        *("mixture.prompts=20", "evaluation.list_functions=2", "evaluation.turing_programs=2"),
    )
    changes = [word for change in small for word in ("--set", change)]
    ended = home.run("--select", "+key:mart_icl", *changes, experiment=str(tmp_path / "mine.yaml"))
    assert ended.returncode == 0, ended.stderr
    results = store.read_table("mart_icl")
    assert {"data", "phone_reviews"} == set(results["dataset"])
