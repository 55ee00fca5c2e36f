"""Reading SQL models from a folder, running them, and testing what schema.yml says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sql_rows import (
    MODELS,
    VARIABLES,
    Run,
    catalog,
    completions,
    flips,
    predictions,
    raw,
    running,
)

from symtune_pipeline.contract import Column, Table
from symtune_pipeline.errors import UserError
from symtune_pipeline.sql import engine
from symtune_pipeline.sql.model import column_lineage, load_models
from symtune_pipeline.tables import BENCHMARKS, SOURCES


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return running(tmp_path)


SOURCE = {"source": Table("source", "d", {key: Column(pl.Int64(), "d") for key in ("a", "b")})}


def folder(tmp_path: Path, **files: str) -> Path:
    """A folder of SQL models: file name → SQL, each entered in schema.yml with no columns."""
    (tmp_path / "staging").mkdir()
    for name, sql in files.items():
        (tmp_path / "staging" / f"{name}.sql").write_text(sql)
    entries = "".join(f"  {name}: {{description: d, columns: {{}}}}\n" for name in files)
    (tmp_path / "schema.yml").write_text(f"models:\n{entries}" if files else "models: {}")
    return tmp_path


def test_every_model_comes_after_the_models_it_reads() -> None:
    seen = set(SOURCES)
    for model in MODELS.values():
        assert set(model.depends_on) <= seen
        seen.add(model.name)


def test_a_common_table_expression_is_not_a_dependency(tmp_path: Path) -> None:
    sql = "WITH cte AS (SELECT a FROM source) SELECT a FROM cte WHERE a IN (SELECT a FROM m0)"
    models = load_models(folder(tmp_path, m0="SELECT a FROM source", m1=sql), SOURCE)
    assert models["m1"].depends_on == ("m0", "source")


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELECT a FROM nowhere", r"m\.sql: table nowhere is neither a SQL model nor a source"),
        ("SELECT a FROM source; SELECT 1", r"m\.sql: holds 2 statements"),
        ("DROP TABLE source", r"m\.sql: holds 1 statements; write exactly one SELECT"),
        ("-- nothing yet", r"m\.sql: holds 1 statements; write exactly one SELECT"),
        ("SELECT\n a FROM WHERE", r"m\.sql: line 2: "),
        ("SELECT a FROM m", r"m\.sql: the SQL models read each other in a circle \(m → m\)"),
    ],
)
def test_a_file_that_is_not_one_good_select_is_named(
    tmp_path: Path, sql: str, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        load_models(folder(tmp_path, m=sql), SOURCE)


def test_a_longer_circle_is_shown_in_the_order_of_reading(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(a → b → a|b → a → b)"):
        load_models(folder(tmp_path, a="SELECT 1 FROM b", b="SELECT 1 FROM a"), SOURCE)


def test_files_and_schema_entries_must_match(tmp_path: Path) -> None:
    home = folder(tmp_path, m="SELECT a FROM source")
    (home / "staging" / "extra.sql").write_text("SELECT 1 AS a")
    with pytest.raises(UserError, match=r"extra\.sql: no entry in schema\.yml"):
        load_models(home, SOURCE)
    (home / "staging" / "extra.sql").unlink()
    (home / "staging" / "m.sql").unlink()
    with pytest.raises(UserError, match=r"schema\.yml: m has an entry but no SQL file"):
        load_models(home, SOURCE)


def test_a_misspelt_test_is_refused(tmp_path: Path) -> None:
    home = folder(tmp_path)
    (home / "schema.yml").write_text(
        "models: {m: {description: d, columns: {a: {description: d, tests: [uniqe]}}}}"
    )
    with pytest.raises(UserError, match=r"schema\.yml: models\.m\.columns\.a\.tests"):
        load_models(home, SOURCE)


def test_the_accepted_values_of_a_claim_may_be_those_of_a_vocabulary(tmp_path: Path) -> None:
    home = folder(tmp_path, m="SELECT a FROM source")
    entry = "models: {{m: {{description: d, columns: {{a: {{description: d, tests: [{}]}}}}}}}}"
    (home / "schema.yml").write_text(entry.format("accepted_values: benchmarks"))
    (model,) = load_models(home, SOURCE).values()
    assert model.tests[0].values == tuple(BENCHMARKS)
    (home / "schema.yml").write_text(entry.format("accepted_values: colours"))
    with pytest.raises(UserError, match=r"no vocabulary is called 'colours'; choose one of roles"):
        load_models(home, SOURCE)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    # More rows than one Parquet row group holds (122,880).
    number = pl.int_range(130_000)
    group = (number % 7).cast(pl.String)
    frame = pl.select(
        example_id=pl.format("d{}/train/{}", group, number),
        dataset=pl.format("d{}", group),
        task_type=pl.lit("topic"),
        split=pl.lit("train"),
        input=pl.format("a text {}", number),
        label=pl.lit("a"),
        label_id=number % 3,
        normalized=pl.format("atext{}", number),
    )
    tables: dict[str, list[Path] | pl.DataFrame] = {
        "stg_examples": frame,
        "catalog_datasets": SOURCES["catalog_datasets"].frame(
            catalog(**{f"d{i}": "tuning" for i in range(7)})
        ),
    }
    outs = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for out in outs:
        engine.run_model(MODELS["int_examples"], tables, VARIABLES, out)
    assert pl.read_parquet(outs[0]).height > 122_880
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_sums_of_fractions_do_not_depend_on_the_order_of_threads(tmp_path: Path) -> None:
    sql = "SELECT sum(a) AS a FROM source ORDER BY a"
    (model,) = load_models(folder(tmp_path, m=sql), SOURCE).values()
    path, out = tmp_path / "source.parquet", tmp_path / "out.parquet"
    number = pl.int_range(200_000)
    pl.select(a=(number * number % 9973) / 7).write_parquet(path, row_group_size=5_000)
    written = set()
    for _ in range(5):
        engine.run_model(model, {"source": [path]}, {}, out)
        written.add(out.read_bytes())
    assert len(written) == 1


def test_files_of_one_table_are_read_together_by_column_name(tmp_path: Path) -> None:
    (model,) = load_models(folder(tmp_path, m="SELECT * FROM source ORDER BY a"), SOURCE).values()
    paths = [tmp_path / "k=1" / "one.parquet", tmp_path / "k=1" / "two [b].parquet"]
    paths[0].parent.mkdir()
    pl.DataFrame({"a": [1], "b": ["x"]}).write_parquet(paths[0])
    pl.DataFrame({"c": [0.5], "a": [2]}).write_parquet(paths[1])
    out = tmp_path / "it's out.parquet"
    assert engine.run_model(model, {"source": paths}, {}, out) == 2
    assert pl.read_parquet(out).rows() == [(1, "x", None), (2, None, 0.5)]


@pytest.mark.parametrize(
    ("tables", "variables", "complaint"),
    [
        ({"source": pl.DataFrame({"a": [1]})}, {}, r"m\.sql: no value .* variable 'cap'"),
        ({}, {"cap": 1}, r"m\.sql: its table source has no files yet"),
        ({"source": []}, {"cap": 1}, r"m\.sql: its table source has no files yet"),
        (
            {"source": pl.DataFrame({"z": [1]})},
            {"cap": 1},
            r"m\.sql: Binder Error: .*\ba\b.*; correct the SQL there\.",
        ),
        ({"source": [Path("gone.parquet")]}, {"cap": 1}, r"m\.sql: IO Error: .*gone\.parquet"),
    ],
)
def test_what_a_model_lacks_is_said_in_one_sentence(
    tmp_path: Path, tables: dict[str, Any], variables: dict[str, int], complaint: str
) -> None:
    sql = "SELECT a FROM source WHERE a < getvariable('cap')"
    (model,) = load_models(folder(tmp_path, m=sql), SOURCE).values()
    with pytest.raises(UserError, match=complaint) as error:
        engine.run_model(model, tables, variables, tmp_path / "out.parquet")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.parquet").exists()


def test_declared_tests_count_the_rows_that_fail_and_show_one(tmp_path: Path) -> None:
    home = folder(tmp_path, m="SELECT a, b FROM source")
    (home / "schema.yml").write_text(
        """
models:
  m:
    description: d
    tests: [empty, {unique: [a, b]}]
    columns:
      a: {description: d, tests: [unique, not_null, {relationships: source.b}]}
      b: {description: d, tests: [{accepted_values: ["1", "2"]}]}
"""
    )
    (model,) = load_models(home, SOURCE).values()
    pl.DataFrame({"a": [1, 1, 4, None], "b": [1, 1, 9, 2]}).write_parquet(tmp_path / "own.parquet")
    tables = {"source": pl.DataFrame({"a": [0, 0], "b": [1, 2]})}
    results = engine.run_tests(model, tables, tmp_path / "own.parquet")
    assert {str(result.test): result.failures for result in results} == {
        "empty": 4,
        "unique_a_b": 1,
        "unique_a": 1,
        "not_null_a": 1,
        "relationships_a": 1,
        "accepted_values_b": 1,
    }
    messages = {str(result.test): result.message for result in results}
    assert messages["accepted_values_b"].endswith("as in a=4, b=9.")
    assert messages["unique_a"].endswith("as in a=1, copies=2.")


def test_the_declared_tests_hold_on_good_tables(run: Run, tmp_path: Path) -> None:
    run(
        *MODELS,
        catalog_datasets=catalog(t="tuning", held="evaluation"),
        raw_examples=[
            raw(f"{d}/train/{i}", f"{d} {i}", i % 2) for d in ("t", "held") for i in range(6)
        ],
        eval_icl=predictions("untuned", "01") + predictions("tuned", "11"),
        eval_flipped=flips("tuned", "0", 100),
        eval_algorithmic=completions("untuned", "01"),
    )
    tables = {table: [tmp_path / f"{table}.parquet"] for table in (*SOURCES, *MODELS)}
    for model in MODELS.values():
        results = engine.run_tests(model, tables, tables[model.name][0])
        assert len(results) == len(model.tests) > 0
        assert [result.message for result in results if not result.passed] == []


def test_column_lineage_follows_columns_through_expressions_stars_and_unions() -> None:
    assert column_lineage(MODELS["stg_examples"])["normalized"] == [("raw_examples", "input")]
    assert column_lineage(MODELS["mart_summary"])["p"] == [("int_scores", "p")]
    assert column_lineage(MODELS["int_outcomes"])["dataset"] == [
        ("eval_algorithmic", "concept"),
        ("eval_flipped", "dataset"),
        ("eval_icl", "dataset"),
    ]
