"""Any path works: to polars and DuckDB `[`, `*` and `?` begin a pattern, and `=` names a column."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from conftest import ROOT, Home

from resources.store import table_schema
from symtune_pipeline.commands.query import database_of
from symtune_pipeline.contract import Column, Table
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.incoming import score_folder
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.files import TABLE, read_table, scan_table, sealed, unsealed
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.sources.load import load_examples, public_source
from symtune_pipeline.sources.mirror import Mirror
from symtune_pipeline.sql.engine import run_model, run_tests
from symtune_pipeline.sql.model import load_models
from symtune_pipeline.store.folder import Damaged, Store
from symtune_pipeline.tables import (
    ALGORITHMIC_SUITE,
    CLASSIFICATION_SUITE,
)

# What a pattern would match in place of a path; each pair differs in a pattern's character only.
PATHS = [
    ("my [data] é #1", "my d é #1"),
    ("all*", "all of it"),
    ("what?", "whats"),
    ("run=1/n=2", "run"),
    ("{a,b}", "a"),
    ('it\'s "quoted" %20 ~', "it"),
    ("[", "("),
]
REVIEWS = {
    "role": "tuning",
    "columns": ["text"],
    "label_column": "stars",
    "labels": {1: "bad", 5: "good"},
    "instruction": "Is the review good or bad?",
}
SYMTUNE = "from symtune_pipeline.commands.main import main; main()"
NUMBERS = Table("numbers", "d", {"n": Column(pl.Int64(), "d")})


@pytest.fixture(params=PATHS, ids=[path for path, _ in PATHS])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with an odd name, beside one that its name as a pattern would match."""
    path, other = request.param
    for name, number in ((path, 1), (other, 9)):
        store = Store(tmp_path / name)
        for partition in ("small", "large"):
            with store.writing("numbers", partition) as folder:
                NUMBERS.write(NUMBERS.frame({"n": [number]}), folder)
    return tmp_path / path


def test_a_store_reads_its_own_tables(odd: Path) -> None:
    store = Store(odd)
    assert store.manifest("numbers", "small").rows == {TABLE: 1}
    assert store.read_table("numbers", "small").rows() == [(1,)]
    path = store.folder("numbers", "small") / TABLE
    assert scan_table(path).collect().rows() == read_table(path).rows() == [(1,)]
    assert [column.name for column in table_schema(path, {}).columns] == ["n"]
    assert NUMBERS.misfit(path.parent) is None
    assert store.partitions("numbers") == ["large", "small"]


def test_sql_reads_the_stores_own_tables(odd: Path, tmp_path: Path) -> None:
    store = Store(odd)
    with database_of(store, {"numbers"}) as database:
        assert database.sql("SELECT * FROM numbers").fetchall() == [(1,), (1,)]
    models = tmp_path / "sql" / "staging"
    models.mkdir(parents=True)
    (models / "twice.sql").write_text("SELECT * FROM numbers")
    (models.parent / "schema.yml").write_text(
        "models: {twice: {description: d, columns: {n: {description: d, tests: [not_null]}}}}"
    )
    model = load_models(models.parent, {"numbers": NUMBERS})["twice"]
    files = [store.folder("numbers", name) / TABLE for name in ("small", "large")]
    out = odd / "out.parquet"
    assert run_model(model, {"numbers": files}, {}, out) == 2
    assert read_table(out).rows() == [(1,), (1,)]
    assert [found.passed for found in run_tests(model, {"numbers": files}, out)] == [True]


def _experiment(folder: Path, **data: object) -> Experiment:
    path = folder / f"{folder.name}.yaml"
    settings = {"models": ["micro"], "mixture": {"prompts": 1}, "data": data}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_experiment(str(path))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_own_files_and_the_experiment_beside_them_are_read(odd: Path, suffix: str) -> None:
    frame = pl.DataFrame({"text": ["dull", "fun"], "stars": [1, 5]})
    file = odd / f"{odd.name}.{suffix}"
    writes = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}
    with file.open("wb") as opened:
        writes[suffix](opened)
    described = REVIEWS | {"files": {"train": file.name}}
    experiment = _experiment(odd, own={"reviews": described})
    table = load_examples(experiment.datasets()[0], experiment, public_source(None))
    assert table["input"].to_list() == ["dull", "fun"]


def test_a_mirror_is_filled_and_read(odd: Path) -> None:
    experiment = _experiment(odd, source="hub", datasets=["rt"])
    (dataset,) = experiment.datasets()
    assert dataset.hub is not None
    mirror = Mirror(str(odd))
    for split in dataset.hub.splits:
        mirror.write(dataset.hub, split, pl.DataFrame({"text": ["dull", "fun"], "label": [0, 1]}))
    table = load_examples(dataset, experiment, mirror)
    assert table["input"].to_list() == ["dull", "fun"] * len(dataset.hub.splits)


def test_parquet_is_read_by_path_in_one_module_only() -> None:
    """Whoever reads it elsewhere forgets that a path may look like a pattern."""
    readers = {"read_parquet", "scan_parquet", "read_parquet_schema", "read_ipc", "scan_ipc"}
    found = set()
    for folder in ("symtune_pipeline", "assets", "resources"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr in readers:
                    call = f"{ast.unparse(node.value)}.{node.attr}"
                    found.add((path.relative_to(ROOT).as_posix(), call))
    assert found == {
        ("symtune_pipeline/files.py", "pl.read_parquet"),
        ("symtune_pipeline/files.py", "pl.scan_parquet"),
        ("symtune_pipeline/sources/mirror.py", "pl.read_parquet"),  # bytes
        ("symtune_pipeline/sources/own.py", "pl.read_parquet"),  # bytes
        ("symtune_pipeline/sql/engine.py", "database.read_parquet"),  # escaped
    }


@pytest.mark.slow
@pytest.mark.long
def test_a_whole_run_in_odd_folders_with_an_odd_name(tmp_path: Path) -> None:
    home = Home(tmp_path / "my [data] é #1")
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    described = REVIEWS | {"role": "evaluation", "files": {"train": "re[v]iews #1.jsonl"}}
    settings["data"] |= {"datasets": ["hotel_reviews", "phone_reviews"], "own": {"mine": described}}
    home.folder.mkdir()
    lines = "".join(f'{{"text": "review {i}", "stars": {1 + i % 2 * 4}}}\n' for i in range(40))
    (home.folder / "re[v]iews #1.jsonl").write_text(lines, encoding="utf-8")
    file = home.folder / "a [b] é #2.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    ended = home.run(experiment=str(file))
    assert ended.returncode == 0, ended.stderr
    store = Store(home.folder / "home" / file.stem)
    summary = store.read_table("mart_summary")
    assert len(summary)

    def symtune(*arguments: str) -> str:
        command = (sys.executable, "-c", SYMTUNE, "--experiment", str(file), *arguments)
        read = home._start(*command)
        assert read.returncode == 0, read.stderr
        return read.stdout

    assert str(len(summary)) in symtune("query", "SELECT count(*) AS n FROM mart_summary")
    assert "review 1" in symtune("show", "table", "raw_mine")
    assert symtune("show", "prompt", "--dataset", "hotel_reviews")
    symtune("export", "dataset", str(tmp_path / "out [of] it"))
    symtune("export", "lm-eval", str(tmp_path / "tasks [of] it"))

    dropped = tmp_path / "dropped [model] é #3"
    shutil.copytree(store.folder("symbol_tuned_model", "micro"), dropped)
    suites = [
        store.read_table("eval", name=suite.file).head(4)
        for suite in (CLASSIFICATION_SUITE, ALGORITHMIC_SUITE)
    ]
    inputs = store.read_table("int_evaluation_examples").sort("example")["input"].to_list()
    score_folder(store, dropped, suites[0], suites[1], inputs, [], EvaluationConfig(), print)
    kept = store.read_table("incoming_classification", dropped.name)
    assert kept["model"].unique().to_list() == [dropped.name]


OUTSIDE = [
    "",
    ".",
    "..",
    "../x",
    "/tmp/x",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    ".writing-host-1-x",
    "n" * 300,
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_partition_that_is_no_name_of_a_folder_is_refused_and_nothing_is_lost(
    name: str, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    for key in ("numbers", "others"):
        with store.writing(key, "small") as folder:
            NUMBERS.write(NUMBERS.frame({"n": [1]}), folder)
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(UserError, match="cannot name a partition of 'numbers'"),
        store.writing("numbers", name),
    ):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [*OUTSIDE, "incoming"])
def test_an_experiment_that_is_no_name_of_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(settings | {"name": name}), encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.yaml(, setting 'name': | is not valid)"):
        load_experiment(str(file))


@pytest.mark.parametrize(
    "change",
    [
        {"version": "../../outside"},
        {"version": ".."},
        {"version": "ABCDEF"},
        {"files": {"../../outside/x": "0" * 64}},
        {"files": {"/etc/hostname": "0" * 64}},
    ],
)
def test_a_manifest_that_names_what_lies_elsewhere_is_none(
    change: dict[str, object], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    with store.writing("numbers", "small") as folder:
        NUMBERS.write(NUMBERS.frame({"n": [1]}), folder)
    file = store.root / "numbers" / "small" / "manifest.json"
    file.write_text(sealed(unsealed(file.read_text()) | change), encoding="utf-8")
    with pytest.raises(Damaged, match=r"is damaged; materialise 'numbers' again"):
        store.folder("numbers", "small")


def test_publishing_removes_versions_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for number in (1, 2):
        with store.writing("numbers", "small") as folder:
            NUMBERS.write(NUMBERS.frame({"n": [number]}), folder)
        (store.root / "numbers" / "small" / "somebody's").mkdir(exist_ok=True)
    left = {path.name for path in (store.root / "numbers" / "small").iterdir()}
    assert left == {"manifest.json", "somebody's", store.manifest("numbers", "small").version}
