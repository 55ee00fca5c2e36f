"""Which sets are evaluated and which are tuned on, as an experiment divides them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment


def experiment(folder: Path, **data: Any) -> Experiment:
    path = folder / "split.yaml"
    settings = {"models": ["micro"], "data": {"source": "hub"} | data, "mixture": {"prompts": 10}}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_experiment(str(path))


def held_out(found: Experiment) -> set[str]:
    return {entry.key for entry in found.datasets() if entry.role == "evaluation"}


def test_the_papers_split_is_the_catalogues(tmp_path: Path) -> None:
    roles = {entry.key: entry for entry in experiment(tmp_path).datasets()}
    assert roles == {key: entry for key, entry in all_datasets().items() if entry.hub}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("picl7", {"sst2", "subj", "rt", "rte", "agn", "cb"}),
        ("held_out_stance", {"teab", "teat", "tefe", "tehi"}),
        ("held_out_sentiment_analysis", {"sst2", "rt", "tes"}),
        (["agn", "subj"], {"agn", "subj"}),
    ],
)
def test_a_split_evaluates_its_sets_and_tunes_on_all_others(
    split: str | list[str], expected: set[str], tmp_path: Path
) -> None:
    found = experiment(tmp_path, split=split)
    assert held_out(found) == expected
    assert len(found.datasets()) == 33


def test_generated_sets_are_divided_by_the_same_word(tmp_path: Path) -> None:
    found = experiment(tmp_path, source="generated", split="held_out_stance")
    assert held_out(found) == {"school_uniforms", "home_office", "zoo_debate"}


def test_a_set_in_another_role_reads_what_the_role_needs(tmp_path: Path) -> None:
    """Queries come from the split with labels that tuning never reads."""
    found = {e.key: e.hub.splits for e in experiment(tmp_path, split=["agn"]).datasets() if e.hub}
    assert found["agn"] == {"train": "train", "test": "test"}
    assert found["subj"] == found["rte"] == {"train": "train"}


def test_every_tuning_set_has_a_split_for_queries() -> None:
    tuned = [e for e in all_datasets().values() if e.hub and e.role == "tuning"]
    assert len(tuned) == 22
    assert all(entry.hub and entry.hub.held_out for entry in tuned)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {"split": "picl"},
            "there is no split 'picl'; choose a list of sets or one of paper, picl7",
        ),
        ({"split": ["agn", "nope"]}, "There is no dataset 'nope' in the catalogue"),
        ({"split": ["agn"], "datasets": ["rte", "subj"]}, "'agn' is not among data.datasets"),
    ],
)
def test_a_split_that_cannot_be_is_one_sentence(
    data: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"setting 'data.split': {sentence}"):
        experiment(tmp_path, **data)
