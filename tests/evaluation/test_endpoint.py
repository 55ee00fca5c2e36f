"""Scoring a served model: what our scorer computes from its folder, and what a user reads."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from completions_server import KEY, NAME, CompletionsServer
from tiny_models import (
    reference_logprobs,
    reference_model,
    save_reading_model,
    save_tiny_model,
)
from tokenizer_kinds import read, small_tokenizer
from transformers import AutoTokenizer

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.commands.score_endpoint import accuracies
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.classification import classify
from symtune_pipeline.evaluation.endpoint import TRIES, Endpoint, predict
from symtune_pipeline.evaluation.suites import classification_suite
from symtune_pipeline.prompts.text import classification_prompt, label_text, render
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import CLASSIFICATION_PREDICTIONS, flipped_setting

INSTRUCTIONS = {key: entry.instruction for key, entry in all_datasets().items()}


@pytest.fixture(scope="module")
def suite(evaluation_examples: pl.DataFrame, symbols: pl.DataFrame) -> pl.DataFrame:
    config = EvaluationConfig(contexts=1, queries=2, exemplars_per_class=1)
    return classification_suite(evaluation_examples, symbols, INSTRUCTIONS, config, seed=0)


@pytest.fixture(scope="module")
def inputs(evaluation_examples: pl.DataFrame) -> list[str]:
    return evaluation_examples.sort("example")["input"].to_list()


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reading_model(tmp_path_factory.mktemp("model"), deepcopy(tokenizer))


@pytest.fixture
def server(folder: Path) -> Iterator[CompletionsServer]:
    with CompletionsServer(folder).serving() as server:
        yield server


def _endpoint(server: CompletionsServer, **settings: Any) -> Endpoint:
    return Endpoint(server.url, **{"model": NAME, "wait": 0.01} | settings)


@pytest.mark.parametrize("ends", [False, True], ids=["generates", "ends"])
def test_a_served_model_scores_as_it_does_from_its_folder(
    server: CompletionsServer, suite: pl.DataFrame, inputs: list[str], folder: Path, ends: bool
) -> None:
    server.ends = ends
    served = predict(_endpoint(server), suite, inputs)
    local = classify(folder, suite, inputs, EvaluationConfig())
    for found, expected in zip(served["logprobs"], local["logprobs"], strict=True):
        assert found.to_list() == pytest.approx(expected.to_list(), abs=1e-4)
    for found, expected in zip(served["content_free"], local["content_free"], strict=True):
        assert found.to_list() == pytest.approx(expected.to_list(), abs=1e-4)
    shared = [name for name in local.columns if name not in ("logprobs", "content_free", "path")]
    assert served.select(shared).equals(local.select(shared))
    assert (set(served["path"]), set(local["path"])) == ({"served"}, {"packed"})
    assert set(served["model"]) == {NAME} and set(served["variant"]) == {"endpoint"}
    CLASSIFICATION_PREDICTIONS.checked(served)


@pytest.mark.parametrize("kind", ["gpt2", "unigram", "llama2"])
@pytest.mark.parametrize("start", ["begin", "begin_and_end"])
def test_a_served_model_with_a_token_before_its_texts_scores_as_from_its_folder(
    suite: pl.DataFrame, inputs: list[str], tmp_path: Path, start: str, kind: str
) -> None:
    """The server puts it there by itself, and what it puts after a text it leaves out."""
    folder = _saved(small_tokenizer(kind, start), tmp_path)
    local = classify(folder, suite, inputs, EvaluationConfig())
    model, tokenizer = reference_model(folder), AutoTokenizer.from_pretrained(folder)
    for row, found in zip(suite.iter_rows(named=True), local["logprobs"], strict=True):
        prompt = render(classification_prompt(row, inputs))
        before = len(read(tokenizer, prompt))
        for label, logprob in zip(row["labels"], found, strict=True):
            ids = read(tokenizer, prompt + label_text(label))
            assert ids[0] == tokenizer.bos_token_id
            with torch.inference_mode():
                expected = reference_logprobs(model, ids)[before - 1 :].sum().item()
            assert logprob == pytest.approx(expected, abs=1e-4)
    if start == "begin":
        with CompletionsServer(folder).serving() as server:
            served = predict(_endpoint(server), suite, inputs)
        for of_server, ours in zip(served["logprobs"], local["logprobs"], strict=True):
            assert of_server.to_list() == pytest.approx(ours.to_list(), abs=1e-4)


def _saved(tokenizer: Any, folder: Path) -> Path:
    save_tiny_model(folder, vocab_size=len(tokenizer), max_position_embeddings=4_096)
    tokenizer.save_pretrained(folder)
    return folder


def test_accuracies_have_their_number_and_interval() -> None:
    settings = [("a", i < 6, 0.5) for i in range(8)] + [(flipped_setting(50), True, 0.25)] * 2
    predictions = CLASSIFICATION_PREDICTIONS.frame(
        [
            {"setting": setting, "correct": correct, "chance": chance, "calibrated_correct": True}
            for setting, correct, chance in settings
        ]
    )
    assert accuracies(predictions) == [
        "a: 0.75 [0.41, 0.93] of 8, chance 0.50, calibrated 1.00 [0.68, 1.00]",
        "50% flipped: 1.00 [0.34, 1.00] of 2, chance 0.25, calibrated 1.00 [0.34, 1.00]",
    ]


def test_a_busy_server_is_asked_again(
    server: CompletionsServer, suite: pl.DataFrame, inputs: list[str]
) -> None:
    server.troubles = TRIES - 1
    assert len(predict(_endpoint(server), suite.head(1), inputs)) == 1
    server.troubles, server.asked = 1_000, 0
    with pytest.raises(UserError, match=r"refuses a request \(status 503: busy\); correct"):
        predict(_endpoint(server), suite.head(1), inputs)
    assert server.asked == 2 * TRIES  # the query, and beside it one without content


def test_the_first_failure_ends_the_work(
    server: CompletionsServer, suite: pl.DataFrame, inputs: list[str]
) -> None:
    server.says = b"hello"
    many = pl.concat([suite] * 20)
    with pytest.raises(UserError, match=r"something else than a completion; give the address up"):
        predict(_endpoint(server), many, inputs)
    assert server.asked < len(many) / 4


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ({"echoes": False}, "returns no log-probabilities of the prompt; serve the model with a"),
        (
            # llama.cpp's server, which does not echo: the generated token alone, in the chat's form.
            {
                "says": b'{"choices": [{"logprobs": {"content": [{"token": "x", "logprob": -1}]}}],'
                b' "usage": {"completion_tokens": 1}}'
            },
            "returns no log-probabilities of the prompt",
        ),
        (
            {"says": b'{"choices": [{"logprobs": null}], "usage": {"completion_tokens": 1}}'},
            "returns no log-probabilities of the prompt",
        ),
        ({"says": b'{"choices": []}'}, "answers with something else than a completion"),
        (
            {
                "says": b'{"choices": [{"logprobs": {"tokens": [":", " good"], "token_logprobs":'
                b' [null, NaN]}}], "usage": {"completion_tokens": 0}}'
            },
            "returned a log-probability that is no finite number; its weights are damaged",
        ),
    ],
    ids=["no echo", "llama.cpp", "no logprobs", "no choice", "NaN"],
)
def test_a_response_that_cannot_be_used_is_one_sentence(
    server: CompletionsServer,
    suite: pl.DataFrame,
    inputs: list[str],
    trouble: dict[str, Any],
    sentence: str,
) -> None:
    for name, value in trouble.items():
        setattr(server, name, value)
    asked = suite.filter(dataset="phone_reviews", setting="relevant labels, no instruction")
    good_first = asked.with_columns(labels=pl.lit(["good", "bad"]))
    with pytest.raises(UserError, match=f"^Endpoint {server.url} {sentence}"):
        predict(_endpoint(server), good_first, inputs)


def test_a_label_that_no_token_begins_with_is_named(
    server: CompletionsServer, suite: pl.DataFrame, inputs: list[str]
) -> None:
    server.merges = True
    one_token = suite.head(1).with_columns(labels=pl.lit(["a", "b"]))
    with pytest.raises(UserError, match=r"splits the prompt otherwise than before the label ' a'"):
        predict(_endpoint(server), one_token, inputs)


def test_a_server_that_is_too_slow_or_not_there_is_one_sentence(
    server: CompletionsServer, suite: pl.DataFrame, inputs: list[str]
) -> None:
    server.delay = 0.5
    with pytest.raises(UserError, match=r"does not answer \(ReadTimeout: .*\); start the server"):
        predict(_endpoint(server, timeout=0.05), suite.head(1), inputs)
    for url in ("http://127.0.0.1:1/v1", "127.0.0.1:1/v1", "http://[/v1"):
        with pytest.raises(UserError, match=r"does not answer \(.+\); start the server, or corr"):
            predict(Endpoint(url, NAME, wait=0.01), suite.head(1), inputs)


def test_a_wrong_address_or_model_is_one_sentence(
    server: CompletionsServer, suite: pl.DataFrame, inputs: list[str]
) -> None:
    with pytest.raises(UserError, match=r"\(status 404: .*The model does not exist.*\); correct"):
        predict(_endpoint(server, model="other"), suite.head(1), inputs)
    with pytest.raises(UserError, match=r"\(status 404: Not Found\); correct the address"):
        predict(Endpoint(server.url.removesuffix("/v1"), NAME), suite.head(1), inputs)


def test_a_key_is_shown_to_the_server_and_to_nobody_else(
    server: CompletionsServer, suite: pl.DataFrame, inputs: list[str]
) -> None:
    server.needs_key = True
    assert len(predict(_endpoint(server, key=KEY), suite.head(1), inputs)) == 1
    wrong = _endpoint(server, key="sk-wrong")
    with pytest.raises(UserError, match=r"refuses the key \(status 401\); set OPENAI_API_KEY") as e:
        predict(wrong, suite.head(1), inputs)
    assert "sk-wrong" not in f"{e.value}{wrong}"
