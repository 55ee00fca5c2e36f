"""What Dagster shows of the tables, and the command behind `make sql`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from conftest import DATA_SIDE, ROOT, DataSide, materialize
from graph import materialise

from assets.location import code_location
from assets.run import selection
from resources.store import StoreResource
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.files import TABLE

Metadata = Mapping[str, dg.MetadataValue]


def materialised(root: Path, *assets: str) -> dict[str, Metadata]:
    """The metadata of assets of the smoke experiment, made again over the store in `root`."""
    result = materialise(load_experiment("smoke"), root, assets)
    assert result.success
    return {
        event.asset_key.to_user_string(): event.step_materialization_data.materialization.metadata
        for event in result.all_events
        if event.is_step_materialization and event.asset_key
    }


@pytest.fixture(scope="module")
def shown(data_side: DataSide) -> dict[str, Metadata]:
    """What is shown of tables that are up to date."""
    return materialised(data_side.store.root, "stg_examples", "int_examples", "eval", "raw_trades")


def columns(value: dg.MetadataValue) -> dict[str, tuple[str, str | None]]:
    assert isinstance(value, dg.TableSchemaMetadataValue)
    return {column.name: (column.type, column.description) for column in value.schema.columns}


def test_a_model_shows_its_columns_with_the_types_of_the_file_and_the_words_of_the_schema(
    shown: dict[str, Metadata],
) -> None:
    found = columns(shown["int_examples"]["dagster/column_schema"])
    assert found["label_id"] == ("Int64", "Index of the class.")
    assert found["role"] == ("String", "Role of the dataset.")
    assert all(description for _, description in found.values())


def test_other_tables_show_their_columns_too(shown: dict[str, Metadata]) -> None:
    assert columns(shown["raw_trades"]["dagster/column_schema"])["label_id"] == (
        "Int64",
        "The class as an index into the dataset's labels.",
    )
    suites = shown["eval"]
    assert columns(suites["classification column_schema"])["exemplars"][0] == "List(UInt32)"
    assert "target" in columns(suites["algorithmic column_schema"])
    assert suites["algorithmic row_count"].value == 16


def test_lineage_leads_from_column_to_column_of_the_assets(shown: dict[str, Metadata]) -> None:
    value = shown["stg_examples"]["dagster/column_lineage"]
    assert isinstance(value, dg.TableColumnLineageMetadataValue)
    sources = value.lineage.deps_by_column["normalized"]
    assert {source.column_name for source in sources} == {"input"}
    raw = {f"raw_{entry.key}" for entry in load_experiment("smoke").datasets()}
    assert {source.asset_key.to_user_string() for source in sources} == raw

    value = shown["int_examples"]["dagster/column_lineage"]
    assert isinstance(value, dg.TableColumnLineageMetadataValue)
    assert value.lineage.deps_by_column["role"] == []  # from the catalogue, which is no asset
    assert value.lineage.deps_by_column["label"] == [
        dg.TableColumnDep(dg.AssetKey("stg_examples"), "label")
    ]


def test_the_preview_is_five_rows_of_a_markdown_table(shown: dict[str, Metadata]) -> None:
    lines = str(shown["int_examples"]["preview"].value).splitlines()
    assert len(lines) == 2 + 5
    cells = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
    assert cells == {2 + 9}  # also where a text holds a bar


def test_a_preview_escapes_bars(data_side: DataSide, tmp_path: Path) -> None:
    shutil.copytree(data_side.store.root, tmp_path / "smoke")
    store = StoreResource(root=str(tmp_path / "smoke"))
    for key in data_side.store.all_keys():
        if key.startswith("raw_"):
            raw = data_side.store.read_table(key).with_columns(input=pl.lit("left | right"))
            with store.artifacts.writing(key) as folder:
                raw.write_parquet(folder / TABLE)
    shown = materialised(tmp_path / "smoke", "stg_examples")
    assert "left \\| right" in str(shown["stg_examples"]["preview"].value)


def test_make_sql_says_rows_and_tests_of_every_model_of_the_data_side(data_side: DataSide) -> None:
    log = data_side.ended.stderr
    models = re.findall(r"(\w+): (\d+) of \2 tests hold", log)
    assert {name for name, _ in models} == {
        *("stg_examples", "int_examples", "int_tuning_examples", "int_evaluation_examples"),
        *("int_set_statistics", "int_contamination"),
    }
    for name, _ in models:
        assert re.search(rf"{name}: [\d,]+ rows, made in", log)
    assert data_side.ended.stdout == ""  # the table of results belongs to a whole run
    assert DATA_SIDE in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_a_declared_test_that_fails_ends_the_run_with_a_sentence_and_status_1(
    data_side: DataSide, tmp_path: Path
) -> None:
    shutil.copytree(data_side.store.root, tmp_path / "home" / "smoke")
    store = StoreResource(root=str(tmp_path / "home" / "smoke")).artifacts
    raw = store.read_table("raw_trades")
    made_from = store.manifest("raw_trades").made_from  # so that it is taken for up to date
    with store.writing("raw_trades", None, made_from) as folder:
        pl.concat([raw, raw.head(1)]).write_parquet(folder / TABLE)
    ended = materialize(tmp_path, "+stg_examples")
    assert ended.returncode == 1
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    name = raw["example_id"][0]
    assert error == (
        f"error: stg_examples: unique_example_id fails 1 times, as in example_id='{name}', copies=2."
    )


def test_a_table_is_made_from_what_another_run_makes_until_then(
    data_side: DataSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run makes an input once this one has begun with the table, and takes away the old one."""
    root = tmp_path / "smoke"
    shutil.copytree(data_side.store.root, root)
    store = StoreResource(root=str(root)).artifacts
    raw = store.read_table("raw_trades")
    make = StoreResource.make

    def slow(self: StoreResource, *arguments: Any, **options: Any) -> dg.MaterializeResult:
        with store.writing("raw_trades") as folder:
            raw.head(7).write_parquet(folder / TABLE)
        return make(self, *arguments, **options)

    monkeypatch.setattr(StoreResource, "make", slow)
    result = materialise(load_experiment("smoke"), root, ["stg_examples"])
    assert result.success, failures(result)
    assert len(store.read_table("stg_examples").filter(dataset="trades")) == 7


@pytest.mark.parametrize("text", ["nope", "+("])
def test_a_selection_of_nothing_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError) as error:
        selection(code_location(load_experiment("smoke")), text)
    assert str(error.value).startswith(f"The selection '{text}' means no asset; write it in ")


def test_make_sql_runs_a_model_with_all_that_it_needs() -> None:
    command = ["make", "-n", "sql", "MODEL=int_examples"]
    recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (selected,) = re.findall(r"--select '(.*)'", recipe)
    assert {dg.AssetKey("raw_hotel_reviews"), dg.AssetKey("int_examples")} <= set(
        selection(code_location(load_experiment("smoke")), selected)
    )


def failures(result: dg.ExecuteInProcessResult) -> list[str | None]:
    """What is said of each step that failed as a user error; None of any other."""
    found = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return [data.user_failure_data and data.user_failure_data.description for data in found]


@pytest.mark.parametrize(
    "asset", ["stg_examples", "int_contamination", "int_outcomes", "int_scores", "mart_icl"]
)
def test_a_table_whose_inputs_were_never_made_names_them(asset: str, tmp_path: Path) -> None:
    [said] = failures(materialise(load_experiment("smoke"), tmp_path, [asset]))
    pattern = re.escape(str(tmp_path)) + r"/(\w+) holds nothing yet; materialise '\1' first\."
    assert said and re.fullmatch(pattern, said)


def test_a_report_of_nothing_names_what_is_missing(tmp_path: Path) -> None:
    [said] = failures(materialise(load_experiment("smoke"), tmp_path, ["eval_report"]))
    assert said and said.endswith(" first.") and "holds nothing yet" in said


def test_a_folder_without_published_prompts_is_named(tmp_path: Path) -> None:
    smoke = load_experiment("smoke")
    config = smoke.evaluation.model_copy(update={"published": tmp_path / "nowhere"})
    experiment = smoke.model_copy(update={"evaluation": config})
    [said] = failures(materialise(experiment, tmp_path, ["eval"]))
    assert said and f"Folder {tmp_path / 'nowhere'} of evaluation.published holds no" in said


def test_a_dropped_model_without_suites_names_them(tmp_path: Path) -> None:
    job = code_location(load_experiment("smoke")).resolve_job_def("evaluate_folder")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            run_config={"ops": {"score_incoming": {"config": {"folder": str(tmp_path)}}}},
            resources={"store": StoreResource(root=str(tmp_path))},
            instance=instance,
            raise_on_error=False,
        )
    assert failures(result) == [f"{tmp_path}/eval holds nothing yet; materialise 'eval' first."]
