"""Settings and data that nobody would write on purpose: one sentence, at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

from resources.launcher import load_launcher
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.sources.load import load_examples, public_source

ALIASES = "".join(f"b{i}: &b{i} {{}}[{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 12))
SEQUENCES = "b0: &b0 [x]\n" + ALIASES.replace("{}", "")
MERGES = "b0: &b0 {k: v}\n" + ALIASES.replace("{}[", "{<<: [").replace("]\n", "]}\n")

NO_SETTINGS = {
    "a date that is none": ("seed: 2024-99-99", "'seed'"),
    "a date by its tag": ("seed: !!timestamp foo", "not valid YAML"),
    "a truth value by its tag": ("seed: !!bool foo", "not valid YAML"),
    "an object of Python's": ("seed: !!python/object/apply:os.system [ls]", "not valid YAML"),
    "no hexadecimal number": ("seed: 0x_", "'seed'"),
    "5,000 digits": ("seed: " + "9" * 5_000, "the number in line 1 has 5,000 digits"),
    "5,000 digits and a point": ("seed: " + "9" * 5_000 + ".5", "has 5,002 digits"),
    "deep lists": ("seed: " + "[" * 5_000 + "]" * 5_000, "more than 50 levels"),
    "deep mappings": ("seed: " + "{a: " * 5_000 + "}" * 5_000, "more than 50 levels"),
    "lists repeated 9^11 times": (SEQUENCES, "repeats too much by its aliases"),
    "mappings merged 9^11 times": (MERGES, "repeats too much by its aliases"),
    "an alias of what it stands in": ("seed: &a [*a]", "repeats too much by its aliases"),
    "a key that comes twice": ("seed: 1\nseed: 2", "'seed' comes a second time"),
    "half a surrogate": ('name: "\\ud800"', "line 1 escapes what is no character"),
    "a NUL": ('name: "a\\0b"', "line 1 escapes what is no character"),
    "a control character": ("name: \x01", "not valid YAML"),
    "a name with an escape sequence": ('"\\x1b[2J": 1', r"setting '\x1b[2J': unknown setting"),
    "a name with a bracket": ("tun[ing: {}", "setting 'tun[ing': unknown setting"),
    "a name that ends with brackets": ("seed[0]: 1", "setting 'seed[0]': unknown setting"),
    "a bracket within a section": (
        "data:\n  so[urce: x",
        "setting 'data.so[urce': unknown setting",
    ),
    "2 MB": ("# " + "x" * 2_000_000, "more than 1,000,000 bytes"),
}


def _refused(path: Path, load: Callable[[str], object]) -> str:
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        load(str(path))
    assert time.monotonic() - started < 5
    sentence = str(error.value)
    assert str(path) in sentence and sentence.isprintable() and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("case", NO_SETTINGS)
def test_a_file_that_is_no_experiment_is_one_sentence_at_once(case: str, tmp_path: Path) -> None:
    text, says = NO_SETTINGS[case]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert says in _refused(path, load_experiment)
    sentence = _refused(path, load_launcher)
    assert says in sentence or "setting 'kind'" in sentence


@pytest.mark.parametrize("load", [load_experiment, load_launcher])
def test_a_pipe_is_no_file_with_settings_and_nobody_waits_for_it(
    load: Callable[[str], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "mine.yaml")
    assert "no ordinary file" in _refused(tmp_path / "mine.yaml", load)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"seed": 2**63}, "seed"),
        ({"seed": float("inf")}, "seed"),
        ({"mixture": {"prompts": 10**12}}, "prompts"),
        ({"mixture": {"prompts": 9, "temperature": float("inf")}}, "temperature"),
        ({"mixture": {"prompts": 9, "temperature": float("nan")}}, "temperature"),
        ({"tuning": {"epochs": 10**9}}, "epochs"),
        ({"tuning": {"learning_rate": float("inf")}}, "learning_rate"),
        ({"tuning": {"checkpoint_seconds": float("inf")}}, "checkpoint_seconds"),
        ({"tuning": {"lora": {"rank": 10**9}}}, "rank"),
        ({"evaluation": {"contexts": 10**9}}, "contexts"),
        ({"evaluation": {"list_functions": 10**9}}, "list_functions"),
    ],
)
def test_no_number_of_a_setting_is_endless(
    settings: dict[str, object], name: str, tmp_path: Path
) -> None:
    """Infinity is null in JSON: what an asset is made from would not have changed with it."""
    base = {"models": ["micro"], "data": {"source": "generated"}, "mixture": {"prompts": 9}}
    path = tmp_path / "mine.yaml"
    text = json.dumps(base | settings).replace("Infinity", ".inf").replace("NaN", ".nan")
    path.write_text(text)
    assert name in _refused(path, load_experiment)


# --- data of one's own --------------------------------------------------------------------------


def _examples(folder: Path, name: str, **described: object) -> pl.DataFrame:
    own = {
        "role": "tuning",
        "files": {"train": name},
        "columns": ["text"],
        "label_column": "stars",
        "labels": {"1": "bad", "5": "good"},
        "instruction": "Is it good?",
    }
    experiment = Experiment.model_validate(
        {
            "name": "x",
            "models": ["micro"],
            "data": {"own": {"mine": own | described}},
            "mixture": {"prompts": 2},
        },
        context={"folder": folder},
    )
    return load_examples(experiment.dataset("mine"), experiment, public_source(None))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("described", ["columns", "label_column", "id_column"])
@pytest.mark.parametrize("column", ["*", "^.*$", "^t", "text label", "row", "a.b"])
def test_a_column_is_no_pattern_whatever_it_is_called(
    column: str, described: str, suffix: str, tmp_path: Path
) -> None:
    names = {"columns": "text", "label_column": "stars", "id_column": "id"} | {described: column}
    frame = pl.DataFrame(
        {
            names["columns"]: ["a", "b"],
            names["label_column"]: ["1", "5"],
            names["id_column"]: ["p", "q"],
            "other": ["r", "s"],
        }
    )
    path = tmp_path / f"mine.{suffix}"
    write = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}
    write[suffix](path)
    columns = {**names, "columns": [names["columns"]]}
    examples = _examples(tmp_path, path.name, **columns)
    assert examples.select("example_id", "input", "label").rows() == [
        ("mine/train/p", "a", "bad"),
        ("mine/train/q", "b", "good"),
    ]


ODD = {
    "binary": pa.array([b"\xff", b"a"]),
    "binary in a dictionary": pa.array([b"\xff", b"a"]).dictionary_encode(),
    "durations": pa.array([timedelta(1), timedelta(2)]),
    "lists": pa.array([["a"], ["b"]]),
    "nothing": pa.nulls(2),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("column", ["text", "stars", "id"])
def test_a_column_of_another_kind_is_one_sentence(kind: str, column: str, tmp_path: Path) -> None:
    columns = {"text": pa.array(["a", "b"]), "stars": pa.array(["1", "5"]), "id": pa.array("pq")}
    parquet.write_table(pa.table(columns | {column: ODD[kind]}), tmp_path / "mine.parquet")
    with pytest.raises(UserError) as error:
        _examples(tmp_path, "mine.parquet", id_column="id")
    sentence = str(error.value)
    assert str(tmp_path / "mine.parquet") in sentence and "\n" not in sentence
    assert "convert the column" in sentence or kind == "nothing"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "a", "stars": ' + "9" * 5_000 + "}", "a number has thousands of digits"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "brackets lie too deep"),
        ('{"text": "\\ud800", "stars": 1}', "'text' holds"),
        ('{"text": "a", "stars": "\\ud800"}', "'stars' holds"),
    ],
)
def test_a_line_that_no_table_can_hold_is_named(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"mine\.jsonl, line 1") as error:
        _examples(tmp_path, "mine.jsonl")
    assert says in str(error.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "tsv"])
def test_nobody_waits_for_a_pipe(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"mine.{suffix}")
    with pytest.raises(UserError, match="no ordinary file"):
        _examples(tmp_path, f"mine.{suffix}")


@pytest.mark.parametrize("load", [load_experiment, load_launcher])
def test_a_name_that_no_file_can_have_is_one_sentence(load: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match="cannot be read") as error:
        load("half a surrogate \ud800.yaml")
    assert str(error.value).isprintable()
