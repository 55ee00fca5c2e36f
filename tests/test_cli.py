"""The command `symtune`: what it prints, how it ends, and what it says when misused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from completions_server import KEY, NAME, CompletionsServer
from conftest import DataSide
from models import save_reading_model

from symtune_pipeline.cli import main
from symtune_pipeline.evaluation.suites import SETTINGS
from symtune_pipeline.look import tables

COMMANDS = [
    ("query",),
    ("show", "table"),
    ("show", "dataset"),
    ("export", "dataset"),
    ("export", "lm-eval"),
    ("score-endpoint",),
    ("push",),
]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one sentence of a user error."""
        assert (self.code, self.out) == (2, "")
        (line,) = self.err.splitlines()
        return line.removeprefix("error: ")


Symtune = Callable[..., Ended]


@pytest.fixture
def symtune(
    data_side: DataSide, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Symtune]:
    """Runs `symtune …` on the tables of the smoke experiment."""
    monkeypatch.setenv("SYMTUNE_HOME", str(data_side.home))
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    monkeypatch.setenv("COLUMNS", "160")

    def symtune(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["symtune", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capfd.readouterr())

    yield symtune


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(symtune: Symtune, command: tuple[str, ...]) -> None:
    ended = symtune(*command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"Example: symtune {' '.join(command)} " in ended.out


def test_a_query_reads_tables_by_the_names_of_their_assets(symtune: Symtune) -> None:
    ended = symtune("query", "SELECT role, sum(kept) FROM int_set_statistics GROUP BY role")
    assert (ended.code, ended.err) == (0, "")
    assert "1320" in ended.out and "990" in ended.out


def test_a_query_reads_the_tables_of_an_asset_that_has_several(symtune: Symtune) -> None:
    ended = symtune("query", "SELECT count(*) + 123400 AS n FROM eval.algorithmic")
    assert "123416" in ended.out


def test_partitions_are_one_table(data_side: DataSide, symtune: Symtune, tmp_path: Path) -> None:
    from symtune_pipeline.storage import TABLE, Store

    store = Store(tmp_path / "smoke")
    for partition, frame in (("small", {"a": [20]}), ("large it's", {"b": [0], "a": [3]})):
        with store.writing("eval_icl", partition) as folder:
            pl.DataFrame(frame).write_parquet(folder / TABLE)
    assert set(tables(store)) == {"eval_icl"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMTUNE_HOME", str(tmp_path))
        ended = symtune("query", "SELECT sum(a) AS total, count(b) AS given FROM eval_icl")
    assert "23" in ended.out and "given" in ended.out


def test_a_table_is_shown_by_its_first_rows(symtune: Symtune) -> None:
    ended = symtune("show", "table", "int_examples", "--rows", "3")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("asked_detail/test/") == 3
    assert "varchar" in ended.out
    assert "expected" in symtune("show", "table", "eval.algorithmic").out


def test_a_dataset_is_shown_with_what_was_loaded_of_it(symtune: Symtune) -> None:
    ended = symtune("show", "dataset", "trades")
    assert (ended.code, ended.err) == (0, "")
    for line in ("rows         90", "by fate      kept: 60, other_split: 30"):
        assert line in ended.out
    for label in ("farmer", "teacher", "doctor", "builder"):
        assert f"{label}: 2" in ended.out  # 22 or 23 rows


def test_a_dataset_of_the_catalogue_is_shown_outside_the_experiment(symtune: Symtune) -> None:
    ended = symtune("show", "dataset", "rte")
    assert ended.code == 0
    for words in ("nyu-mll/glue", "bcdcba79", "entailment", "Dagan et al.", "not in smoke"):
        assert words in ended.out


def test_a_dataset_that_was_not_loaded_says_how(
    symtune: Symtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path))
    ended = symtune("show", "dataset", "trades")
    assert "`dagster asset materialize --select raw_trades` loads them" in ended.out


def test_an_export_says_where_and_how_much(symtune: Symtune, tmp_path: Path) -> None:
    ended = symtune("export", "dataset", str(tmp_path / "out"))
    assert ended.code == 0
    assert ended.out == f"{tmp_path / 'out'}: 60 mixture, 176 icl, 44 flipped, 16 algorithmic\n"


def test_the_suites_are_exported_for_the_harness(symtune: Symtune, tmp_path: Path) -> None:
    ended = symtune("export", "lm-eval", str(tmp_path / "tasks"))
    assert ended.code == 0
    assert "symtune_icl_symbols_no_instruction: 44 queries\n" in ended.out


@pytest.fixture
def server(tokenizer: Any, tmp_path: Path) -> Iterator[CompletionsServer]:
    folder = save_reading_model(tmp_path / "model", deepcopy(tokenizer))
    with CompletionsServer(folder, needs_key=True).serving() as server:
        yield server


def test_a_served_model_is_scored_with_the_key_of_the_environment(
    server: CompletionsServer, symtune: Symtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.parquet"
    command = ("score-endpoint", server.url, "--model", NAME, "--output", str(output))
    assert "set OPENAI_API_KEY" in symtune(*command).error
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ended = symtune(*command)
    assert ended.code == 0
    assert [line.partition(":")[0] for line in ended.out.splitlines()] == [
        *(name for name, _, _ in SETTINGS),
        "natural labels, no instruction, 100% flipped",
    ]
    assert ended.out.count(" of 44, chance 0.42\n") == 5
    assert pl.read_parquet(output).height == 5 * 44
    assert KEY not in ended.out + ended.err
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    error = symtune(*command).error
    assert "OPENAI_API_KEY holds a line break" in error and KEY not in error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("query", "SELECT 1 FROM nope"),
            "Table with name nope does not exist; choose one of eval.",
        ),
        (("query", "SELECT nope FROM stg_examples"), 'column "nope" not found'),
        (("query", "SELEC 1"), 'syntax error at or near "SELEC"'),
        (("query", "DROP VIEW stg_examples"), "is not one SELECT, and tables can only be read"),
        (("query", "COPY stg_examples TO 'x.csv'"), "is not one SELECT"),
        (("query", "SELECT 1; SELECT 2"), "is not one SELECT"),
        (("query", ""), "is not one SELECT"),
        (("show", "table", "nope"), "There is no table 'nope' in "),
        (("show", "dataset", "nope"), "There is no dataset 'nope' in the catalogue; choose one of"),
        (("export", "dataset", "tests"), "holds something else than an earlier export"),
        (("export", "lm-eval", "tests"), "holds something else than an earlier export"),
        (
            (
                "score-endpoint",
                "http://127.0.0.1:1/v1",
                "--model",
                "x",
                "--output",
                "nope/x.parquet",
            ),
            "File nope/x.parquet cannot be written; name a file in a folder that exists.",
        ),
        (("--experiment", "nope", "show", "table", "stg_examples"), "nope.yaml cannot be read"),
    ],
)
def test_misuse_is_one_sentence(
    symtune: Symtune, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in symtune(*arguments).error


def test_a_store_without_tables_says_how_to_make_some(
    symtune: Symtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path))
    assert "none was made yet, and `make sql` makes" in symtune("show", "table", "x").error
    assert "none was made yet, and `make sql` makes" in symtune("query", "FROM x").error
    assert "materialise 'int_contamination' first" in symtune("export", "dataset", "x").error


def test_a_missing_argument_is_a_usage_error(symtune: Symtune) -> None:
    ended = symtune("show", "table")
    assert ended.code == 2
    assert "Usage:" in ended.err
