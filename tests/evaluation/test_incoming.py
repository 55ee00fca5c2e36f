"""A folder that somebody else has filled: scored on both suites, once for the same files and suites."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_models import save_reading_model, save_tiny_model

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.accuracy import by_setting
from symtune_pipeline.evaluation.incoming import score_folder
from symtune_pipeline.evaluation.suites import algorithmic_suite, classification_suite
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import (
    ALGORITHMIC_PREDICTIONS,
    ALGORITHMIC_SUITE,
    CLASSIFICATION_PREDICTIONS,
    CLASSIFICATION_SUITE,
    SETTINGS,
    ZERO_SHOT,
    flipped_setting,
)

CONFIG = EvaluationConfig(
    contexts=1, queries=2, exemplars_per_class=1, algorithmic_shots=1, list_functions=2,
    turing_programs=1, algorithmic_queries=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reading_model(tmp_path_factory.mktemp("incoming") / "theirs", deepcopy(tokenizer))


def test_both_suites_are_scored_and_the_predictions_kept(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame, folder: Path, tmp_path: Path
) -> None:
    instructions = {key: entry.instruction for key, entry in all_datasets().items()}
    suites = (
        classification_suite(evaluation_examples, symbols, instructions, CONFIG, seed=0),
        algorithmic_suite(CONFIG, seed=0),
    )
    inputs = evaluation_examples.sort("example")["input"].to_list()
    store, lines = Store(tmp_path), list[str]()
    first = score_folder(store, folder, *suites, inputs, ["one"], CONFIG, lines.append)
    names = [setting.name for setting in SETTINGS] + [flipped_setting(100), ZERO_SHOT]
    names += ["list_functions, fresh", "turing_concepts, fresh"]
    assert first["setting"].to_list() == sorted(names)
    assert first["n"].sum() == sum(map(len, suites))
    assert len(lines) == 2  # each suite was done
    for key, table in {
        "incoming_classification": CLASSIFICATION_PREDICTIONS,
        "incoming_algorithmic": ALGORITHMIC_PREDICTIONS,
    }.items():
        kept = table.checked(store.read_table(key, "theirs"))
        assert set(kept.select("model", "variant").rows()) == {("theirs", "incoming")}

    again = score_folder(store, folder, *suites, inputs, ["one"], CONFIG, lines.append)
    assert again.equals(first) and len(lines) == 2  # nothing was asked again
    score_folder(store, folder, *suites, inputs, ["other"], CONFIG, lines.append)
    assert len(lines) == 4


def test_a_folder_without_a_chat_template_that_is_asked_for_is_one_sentence(
    folder: Path, tmp_path: Path
) -> None:
    suites = (CLASSIFICATION_SUITE.frame(), ALGORITHMIC_SUITE.frame())
    with pytest.raises(UserError, match=f"tokenizer of '{folder}' has no chat template"):
        score_folder(
            Store(tmp_path), folder, *suites, [], [], EvaluationConfig(chat_template=True), print
        )


def test_a_folder_that_is_no_model_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    suites = (CLASSIFICATION_SUITE.frame(), ALGORITHMIC_SUITE.frame())

    def score(other: Path) -> None:
        score_folder(Store(tmp_path / "store"), other, *suites, [], [], CONFIG, print)

    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "config.json").write_text('{"model_type": "none of ours"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json describes no model that transformers loads"):
        score(other)
    (other / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no complete model: tokenizer\.json is missing"):
        score(other)


def copied(folder: Path, other: Path, **settings: Any) -> Path:
    """The folder again, its configuration changed."""
    shutil.copytree(folder, other)
    path = other / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")
    return other


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model_type": "t5"}, "of type 't5', which is no causal language model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "are quantised .gptq"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "are quantised .bitsandbytes"),
    ],
)
def test_what_does_not_load_is_a_sentence_before_anything_is_scored(
    settings: dict[str, Any], sentence: str, folder: Path, tmp_path: Path
) -> None:
    suites = (CLASSIFICATION_SUITE.frame(), ALGORITHMIC_SUITE.frame())
    with pytest.raises(UserError, match=sentence):
        other = copied(folder, tmp_path / "other", **settings)
        score_folder(Store(tmp_path / "store"), other, *suites, [], [], CONFIG, print)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("gptj", {"rotary_dim": 4}),
        ("gpt_neo", {"attention_types": [[["global", "local"], 1]], "num_layers": 2}),
        ("falcon", {}),
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 4_096}),
        ("llama", {}),
    ],
)
def test_other_architectures_and_a_lone_tokenizer_file_are_scored(
    architecture: str, settings: dict[str, Any], folder: Path, tmp_path: Path,
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame,
) -> None:  # fmt: skip
    other = copied(folder, tmp_path / "theirs")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    save_tiny_model(other, architecture, vocab_size=size, max_position_embeddings=4_096, **settings)
    (other / "tokenizer_config.json").unlink()
    configured = other / "config.json"
    flash = json.loads(configured.read_text()) | {"attn_implementation": "flash_attention_2"}
    configured.write_text(json.dumps(flash), encoding="utf-8")
    instructions = {key: entry.instruction for key, entry in all_datasets().items()}
    suites = (
        classification_suite(evaluation_examples, symbols, instructions, CONFIG, seed=0).head(4),
        algorithmic_suite(CONFIG, seed=0).head(2),
    )
    inputs = evaluation_examples.sort("example")["input"].to_list()
    scored = score_folder(Store(tmp_path), other, *suites, inputs, [], CONFIG, print)
    assert scored["n"].sum() == 6


def test_a_vocabulary_shorter_than_the_tokenizer_is_a_sentence(
    folder: Path, tmp_path: Path, evaluation_examples: pl.DataFrame, symbols: pl.DataFrame
) -> None:
    other = copied(folder, tmp_path / "theirs")
    save_tiny_model(other, vocab_size=50, max_position_embeddings=4_096)
    instructions = {key: entry.instruction for key, entry in all_datasets().items()}
    suite = classification_suite(evaluation_examples, symbols, instructions, CONFIG, seed=0)
    inputs = evaluation_examples.sort("example")["input"].to_list()
    with pytest.raises(UserError, match=r"knows 50 tokens; its tokenizer is that of another model"):
        score_folder(
            Store(tmp_path),
            other,
            suite,
            algorithmic_suite(CONFIG, seed=0),
            inputs,
            [],
            CONFIG,
            print,
        )


def test_accuracy_is_counted_by_setting() -> None:
    classification = CLASSIFICATION_PREDICTIONS.frame(
        [
            {"setting": setting, "correct": correct, "chance": chance}
            for setting, correct, chance in (
                ("a", True, 0.5), ("a", False, 0.25), (flipped_setting(100), True, 0.5),
            )
        ]
    )  # fmt: skip
    algorithmic = ALGORITHMIC_PREDICTIONS.frame(
        [{"benchmark": "c", "setting": "fresh", "correct": False}]
    )
    accuracies = by_setting(classification, algorithmic)
    assert accuracies.select("setting", "n", "accuracy", "chance").rows() == [
        ("a", 2, 0.5, 0.375),
        ("100% flipped", 1, 1.0, 0.5),
        ("c, fresh", 1, 0.0, None),
    ]
    outside = (pl.col("low") > pl.col("accuracy")) | (pl.col("high") < pl.col("accuracy"))
    assert accuracies.filter(outside).is_empty()
