"""Raw data in the one normal form, and what is said of data that cannot take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from symtune_pipeline.catalog.datasets import Dataset, find_dataset
from symtune_pipeline.errors import MissingData, UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.sections import DataConfig, MixtureConfig
from symtune_pipeline.sources.hub import Hub
from symtune_pipeline.sources.load import load_examples
from symtune_pipeline.sources.mirror import Mirror
from symtune_pipeline.sources.normal import empty_inputs, normal_form
from symtune_pipeline.tables import RAW_EXAMPLES

REVIEWS = find_dataset("rt")  # columns text, label; 0 negative, 1 positive
PAIRS = find_dataset("rte")  # columns sentence1, sentence2, label
QUESTIONS = find_dataset("trec")  # its label column is called coarse_label
GOOD: dict[str, list[Any]] = {"text": ["dull", "fun", "bad"], "label": [0, 1, 0]}


def _experiment(source: Any, **data: Any) -> Experiment:
    return Experiment(
        name="test",
        models=("micro",),
        data=DataConfig(source=source, **data),
        mixture=MixtureConfig(prompts=1),
    )


def _refused(columns: dict[str, list[Any]], dataset: Dataset = REVIEWS) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(UserError) as error:
        normal_form(pl.DataFrame(columns), dataset, "train", "/data/train.parquet")
    return _sentence(error)


def _sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def _mirrored(mirror: Path, dataset: Dataset, split: str = "train") -> Path:
    assert dataset.hub is not None
    path = (
        mirror
        / dataset.hub.repository
        / dataset.hub.config
        / f"{dataset.hub.splits[split]}.parquet"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_the_normal_form_names_the_row_and_the_natural_label() -> None:
    table = normal_form(pl.DataFrame(GOOD), REVIEWS, "train", "file")
    assert table.rows() == [
        ("rt/train/0", "rt", "sentiment analysis", "train", "dull", "negative", 0),
        ("rt/train/1", "rt", "sentiment analysis", "train", "fun", "positive", 1),
        ("rt/train/2", "rt", "sentiment analysis", "train", "bad", "negative", 0),
    ]
    assert RAW_EXAMPLES.checked(table) is table


def test_two_columns_become_one_input_by_the_template() -> None:
    columns = {"label": [1, 0], "sentence2": ["It rains.", "{x}"], "sentence1": ["It pours.", "b"]}
    table = normal_form(pl.DataFrame(columns), PAIRS, "train", "file")
    assert table["input"].to_list() == [
        "Premise: It pours. Hypothesis: It rains.",
        "Premise: b Hypothesis: {x}",
    ]


def test_hidden_labels_are_left_out_and_the_others_keep_their_row_numbers() -> None:
    columns = {"text": ["a", "b", "c", "d"], "label": [-1, 0, -1, 1]}
    table = normal_form(pl.DataFrame(columns), REVIEWS, "test", "file")
    assert table["example_id"].to_list() == ["rt/test/1", "rt/test/3"]


def test_numbers_in_the_data_become_indices_of_the_labels() -> None:
    shifted = REVIEWS.model_copy(update={"labels": {1: "against", 2: "for"}})
    table = normal_form(
        pl.DataFrame({"text": ["a", "b"], "label": [2, 1]}), shifted, "train", "file"
    )
    assert table.select("label", "label_id").rows() == [("for", 1), ("against", 0)]


@pytest.mark.parametrize("text", ["", "  \n ", None])
def test_an_empty_text_is_an_empty_input_that_is_reported(text: str | None) -> None:
    columns = {"text": ["a", text, "c", text], "label": [0, 1, 1, 0]}
    table = normal_form(pl.DataFrame(columns), REVIEWS, "train", "file")
    assert table["input"].to_list() == ["a", "", "c", ""]
    said = empty_inputs(table, "Dataset 'rt'")
    assert said is not None
    assert "Dataset 'rt': 2 of 4 examples" in said
    assert "rt/train/1" in said
    assert "\n" not in said


def test_half_an_empty_pair_is_an_empty_input() -> None:
    columns = {"sentence1": ["a", "b"], "sentence2": ["", "c"], "label": [0, 1]}
    table = normal_form(pl.DataFrame(columns), PAIRS, "train", "file")
    assert table["input"].to_list() == ["", "Premise: b Hypothesis: c"]


def test_nothing_is_reported_where_every_text_is_there() -> None:
    assert empty_inputs(normal_form(pl.DataFrame(GOOD), REVIEWS, "train", "file"), "file") is None


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": GOOD["text"]}, ["no column 'label'", "it has text", "correct the columns"]),
        (
            {"sentence": GOOD["text"], "label": GOOD["label"]},
            ["no column 'text'", "sentence, label"],
        ),
        (
            {"text": ["a", "b", "c"], "label": [0, 1, 7]},
            ["row 2: label 7", "[0, 1]", "correct the row"],
        ),
        ({"text": ["a", "b", "c"], "label": [0, -2, 1]}, ["row 1: label -2", "[0, 1]"]),
        ({"text": ["a", "b", "c"], "label": [-1, None, 1]}, ["row 1: label None", "[0, 1]"]),
        ({"text": ["a", "b"], "label": [1, 1]}, ["a single class", "two classes are needed"]),
        ({"text": ["a", "b"], "label": [-1, 1]}, ["a single class", "two classes are needed"]),
        ({"text": ["a", "b"], "label": ["0", "1"]}, ["column 'label' holds String", "convert"]),
        ({"text": ["a", "b"], "label": [0.0, 0.5]}, ["column 'label' holds Float64", "convert"]),
        ({"text": [1, 2], "label": [0, 1]}, ["column 'text' holds Int64", "convert"]),
    ],
)
def test_data_without_a_normal_form_is_one_sentence(
    columns: dict[str, list[Any]], says: list[str]
) -> None:
    sentence = _refused(columns)
    for part in ["/data/train.parquet", "'rt'", *says]:
        assert part in sentence


def test_a_missing_label_column_is_called_by_its_own_name() -> None:
    assert "no column 'coarse_label'" in _refused(GOOD, QUESTIONS)


def test_a_mirror_is_read_by_repository_configuration_and_split(tmp_path: Path) -> None:
    pl.DataFrame(GOOD).write_parquet(_mirrored(tmp_path, REVIEWS))
    table = load_examples(REVIEWS, _experiment("hub"), Mirror(str(tmp_path)))
    assert table["input"].to_list() == GOOD["text"]


def test_bad_data_in_a_mirror_names_the_file(tmp_path: Path) -> None:
    path = _mirrored(tmp_path, REVIEWS)
    pl.DataFrame({"text": ["a"], "label": [9]}).write_parquet(path)
    with pytest.raises(UserError) as error:
        load_examples(REVIEWS, _experiment("hub"), Mirror(str(tmp_path)))
    assert _sentence(error).startswith(f"{path}, row 0: label 9")


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, kept: int) -> None:
    path = _mirrored(tmp_path, REVIEWS)
    pl.DataFrame(GOOD).write_parquet(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError) as error:
        load_examples(REVIEWS, _experiment("hub"), Mirror(str(tmp_path)))
    sentence = _sentence(error)
    assert str(path) in sentence
    assert "copy it again" in sentence


def test_a_file_that_the_mirror_lacks_is_missing_data(tmp_path: Path) -> None:
    with pytest.raises(MissingData) as error:
        load_examples(REVIEWS, _experiment("hub"), Mirror(str(tmp_path)))
    sentence = _sentence(error)
    for part in ("lacks", str(tmp_path), "rotten_tomatoes", "train.parquet"):
        assert part in sentence


def test_a_mirror_that_does_not_exist_is_no_missing_set(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_examples(REVIEWS, _experiment("hub"), Mirror(str(tmp_path / "nowhere")))
    assert not isinstance(error.value, MissingData)
    sentence = _sentence(error)
    assert "nowhere does not exist" in sentence
    assert "SYMTUNE_MIRROR" in sentence


def test_a_generated_set_has_both_splits_and_no_text_in_common() -> None:
    experiment = _experiment("generated", train_rows=30, test_rows=20)
    table = load_examples(find_dataset("magazine_topics"), experiment, Hub())
    assert table.group_by("split").len().sort("split").rows() == [("test", 20), ("train", 30)]
    assert table["input"].n_unique() == 50
    assert load_examples(find_dataset("magazine_topics"), experiment, Hub()).equals(table)
