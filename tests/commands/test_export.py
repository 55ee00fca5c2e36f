"""The exported dataset: what `load_dataset` reads is what the tables say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import DataSide

from symtune_pipeline.commands import export_dataset as export
from symtune_pipeline.commands.export_dataset import export_dataset
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.prompts.text import render, segments
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import ALGORITHMIC_SUITE, CLASSIFICATION_SUITE, TUNING_MIXTURE

SMOKE = load_experiment("smoke")
CONFIGURATIONS = {"mixture", "icl", "flipped", "algorithmic"}


@pytest.fixture(scope="module")
def exported(data_side: DataSide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export into several files, each written in several chunks."""
    folder = tmp_path_factory.mktemp("export") / "new" / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "PROMPTS_PER_FILE", 25)
        patch.setattr(export, "CHUNK", 10)
        counts = export_dataset(data_side.store, SMOKE, folder)
    assert counts == {"mixture": 60, "icl": 176, "flipped": 88, "algorithmic": 16}
    return folder


@pytest.fixture(scope="module")
def read(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Reads a configuration as a user does."""
    from datasets import load_dataset

    cache = str(tmp_path_factory.mktemp("cache"))

    def read(name: str, split: str) -> list[dict[str, Any]]:
        loaded = load_dataset(str(exported), name, cache_dir=cache)
        assert set(loaded) == {split}
        return list(loaded[split])

    return read


def _inputs(store: Store, key: str) -> dict[int, dict[str, Any]]:
    return {row["example"]: row for row in store.read_table(key).iter_rows(named=True)}


def test_a_prompt_of_the_mixture_and_its_completion_are_the_rendered_prompt(
    data_side: DataSide, read: Any
) -> None:
    by_number = _inputs(data_side.store, "int_tuning_examples")
    mixture = data_side.store.read_table("tuning_mixture")
    found = read("mixture", "train")
    assert len(found) == len(mixture) == 60
    for row, references in zip(found, mixture.iter_rows(named=True), strict=True):
        examples = [by_number[example] for example in references["examples"]]
        labels = [references["labels"][target] for target in references["targets"]]
        inputs = [example["input"] for example in examples]
        assert row["prompt"] + row["completion"] == render(
            segments(references["format"], inputs, labels)
        )
        assert row["completion"] == f" {labels[-1]}"
        assert row["examples"] == [example["example_id"] for example in examples]
        assert row["labels"] == references["labels"]
        assert row["targets"] == references["targets"]
        assert row["dataset"] == references["dataset"]


@pytest.mark.parametrize("benchmark", ["icl", "flipped"])
def test_a_query_of_a_suite_is_asked_as_the_models_are_asked(
    data_side: DataSide, read: Any, benchmark: str
) -> None:
    by_number = _inputs(data_side.store, "int_evaluation_examples")
    suite = data_side.store.read_table("eval", name=CLASSIFICATION_SUITE.file).filter(
        benchmark=benchmark
    )
    for row, references in zip(read(benchmark, "test"), suite.iter_rows(named=True), strict=True):
        labels = [references["labels"][target] for target in references["exemplar_targets"]]
        examples = [by_number[e] for e in (*references["exemplars"], references["query"])]
        inputs = [example["input"] for example in examples]
        prompt = segments(references["format"], inputs, labels, references["instruction"])
        assert row["prompt"] == render(prompt)
        assert row["target"] == references["labels"][references["target"]]
        assert row["target_index"] == references["target"]
        assert row["examples"][-1] == examples[-1]["example_id"]
        for name in ("labels", "setting", "flipped_percent", "dataset", "context"):
            assert row[name] == references[name]


def test_an_algorithmic_query_has_its_output_as_target(data_side: DataSide, read: Any) -> None:
    suite = data_side.store.read_table("eval", name=ALGORITHMIC_SUITE.file)
    for row, references in zip(
        read("algorithmic", "test"), suite.iter_rows(named=True), strict=True
    ):
        inputs = [*references["inputs"], references["query_input"]]
        assert row["prompt"] == render(segments(0, inputs, references["outputs"]))
        assert row["target"] == references["target"]
        assert row["dataset"] == references["benchmark"]


def test_files_are_numbered_and_none_is_larger_than_asked_for(exported: Path) -> None:
    files = sorted((exported / "mixture").iterdir())
    assert [file.name for file in files] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [pl.read_parquet(file).height for file in files] == [25, 25, 10]
    assert {path.name for path in exported.iterdir()} == {"README.md", *CONFIGURATIONS}
    assert [path.name for path in exported.parent.iterdir()] == ["dataset"]  # nothing beside


def test_the_card_says_what_the_dataset_was_made_from(exported: Path, data_side: DataSide) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(exported / "README.md")
    assert {entry["config_name"] for entry in card.data.to_dict()["configs"]} == CONFIGURATIONS
    assert card.data.license == "apache-2.0"
    text = card.text
    assert "with seed 0" in text and "exemplars_per_class" in text
    assert data_side.store.manifest("tuning_mixture").version in text
    for entry in SMOKE.datasets():
        version = data_side.store.manifest(f"raw_{entry.key}").version
        assert f"| {entry.key} | {entry.role} | {entry.licence} |" in text
        assert version in text
    assert "chat templates" not in text


def test_the_card_names_no_folder_of_this_machine(data_side: DataSide, tmp_path: Path) -> None:
    evaluation = SMOKE.evaluation.model_copy(update={"published": tmp_path / "bigbench"})
    asked = SMOKE.model_copy(update={"evaluation": evaluation})
    export_dataset(data_side.store, asked, tmp_path / "dataset")
    text = (tmp_path / "dataset" / "README.md").read_text()
    assert "published: bigbench" in text and str(tmp_path) not in text


def test_the_card_says_where_models_were_asked_in_their_chat_templates(
    data_side: DataSide, tmp_path: Path
) -> None:
    evaluation = SMOKE.evaluation.model_copy(update={"chat_template": True})
    asked = SMOKE.model_copy(update={"evaluation": evaluation})
    export_dataset(data_side.store, asked, tmp_path / "dataset")
    text = (tmp_path / "dataset" / "README.md").read_text()
    assert (
        "\n\nModels were tuned and evaluated with their chat templates: a prompt is the message"
        in text
    )
    assert "without the space.\n\n## Sources" in text


def test_the_same_tables_give_the_same_bytes_in_place_of_an_earlier_export(
    exported: Path, data_side: DataSide, tmp_path: Path
) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(exported, folder)
    export_dataset(data_side.store, SMOKE, folder)
    first = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    assert {path.name for path in first} == {
        "train-00000-of-00001.parquet",
        "test-00000-of-00001.parquet",
    }  # the earlier export's files are gone
    export_dataset(data_side.store, SMOKE, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == first


@pytest.mark.parametrize("name", ["notes.txt", "README.md"])
def test_a_folder_with_anything_else_is_left_alone(
    data_side: DataSide, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=r"holds something else than an earlier export; name an"):
        export_dataset(data_side.store, SMOKE, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_an_export_to_which_something_was_added_is_left_alone(
    exported: Path, data_side: DataSide, tmp_path: Path
) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(exported, folder)
    (folder / ".git").mkdir()
    with pytest.raises(UserError, match="something else"):
        export_dataset(data_side.store, SMOKE, folder)
    assert (folder / "mixture").is_dir()


def test_a_file_in_the_place_of_the_folder_is_one_sentence(
    data_side: DataSide, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot be written \(Not a directory\); choose"):
            export_dataset(data_side.store, SMOKE, folder)


def _copied(data_side: DataSide, tmp_path: Path) -> Store:
    shutil.copytree(data_side.store.root, tmp_path / "smoke")
    return Store(tmp_path / "smoke")


def test_an_export_that_fails_leaves_the_earlier_one(
    exported: Path, data_side: DataSide, tmp_path: Path
) -> None:
    store, folder = _copied(data_side, tmp_path), tmp_path / "dataset"
    shutil.copytree(exported, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    mixture = store.read_table("tuning_mixture")
    with store.writing("tuning_mixture") as beside:
        TUNING_MIXTURE.write(
            mixture.with_columns(examples=pl.lit([10**6], pl.List(pl.UInt32))), beside
        )
    with store.writing("int_contamination") as beside:
        data_side.store.read_table("int_contamination").write_parquet(beside / TABLE)
    with pytest.raises(IndexError):
        export_dataset(store, SMOKE, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"smoke", "dataset"}


def test_a_mixture_that_the_guard_refuses_is_not_exported(
    data_side: DataSide, tmp_path: Path
) -> None:
    store = _copied(data_side, tmp_path)
    leak = pl.DataFrame({"kind": ["symbol"], "dataset": ["trades"], "detail": ["12345"]})
    with store.writing("int_contamination") as folder:
        leak.write_parquet(folder / TABLE)
    with pytest.raises(UserError, match="The mixture holds evaluation data"):
        export_dataset(store, SMOKE, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_the_card_names_no_tuning_set_that_the_mixture_has_no_prompt_of(
    exported: Path, data_side: DataSide, tmp_path: Path
) -> None:
    store = _copied(data_side, tmp_path)
    mixture = store.read_table("tuning_mixture")
    with store.writing("tuning_mixture") as folder:
        TUNING_MIXTURE.write(mixture.filter(pl.col("dataset") != "trades"), folder)
    leaks = store.read_table("int_contamination")
    about = {"tuning_mixture": store.manifest("tuning_mixture").version}
    with store.writing("int_contamination", inputs=about) as folder:
        leaks.write_parquet(folder / TABLE)
    export_dataset(store, SMOKE, tmp_path / "dataset")
    before, after = (
        (folder / "README.md").read_text(encoding="utf-8")
        for folder in (exported, tmp_path / "dataset")
    )
    assert "| trades | tuning |" in before and "| trades | tuning |" not in after
    assert "| phone_reviews | evaluation |" in after


@pytest.mark.parametrize(
    ("asset", "examples"),
    [
        ("tuning_mixture", "int_tuning_examples"),
        ("eval", "int_evaluation_examples"),
        ("int_contamination", "tuning_mixture"),
    ],
)
def test_nothing_is_exported_with_the_texts_of_other_rows(
    asset: str, examples: str, data_side: DataSide, tmp_path: Path
) -> None:
    store = _copied(data_side, tmp_path)
    table = store.read_table(examples)
    with store.writing(examples, inputs=store.manifest(examples).inputs) as folder:
        table.head(len(table) - 1).write_parquet(folder / TABLE)
    with pytest.raises(UserError, match=f"'{examples}'; materialise '{asset}' first"):
        export_dataset(store, SMOKE, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_a_suite_without_prompts_is_no_configuration(data_side: DataSide, tmp_path: Path) -> None:
    from datasets import get_dataset_config_names

    store = _copied(data_side, tmp_path)
    suite = store.read_table("eval", name=CLASSIFICATION_SUITE.file)
    with store.writing("eval") as folder:
        CLASSIFICATION_SUITE.write(suite, folder)
        ALGORITHMIC_SUITE.write(ALGORITHMIC_SUITE.frame(), folder)
    assert export_dataset(store, SMOKE, tmp_path / "dataset")["algorithmic"] == 0
    names = get_dataset_config_names(str(tmp_path / "dataset"))
    assert set(names) == CONFIGURATIONS - {"algorithmic"}
