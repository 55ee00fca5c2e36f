"""The loss of plain texts, against transformers' own loss of each text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tiny_models import reference_model, save_tiny_model
from tokenizer_kinds import small_tokenizer

from symtune_pipeline.evaluation import language
from symtune_pipeline.evaluation.checks import not_predicted_once
from symtune_pipeline.evaluation.language import measure
from symtune_pipeline.evaluation.predictions import of_model
from symtune_pipeline.evaluation.suites import language_suite
from symtune_pipeline.prompts.encoding import TextEncoder
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import LANGUAGE_LOSSES, LANGUAGE_SUITE

CONTEXT_TOKENS = 64


def _saved(tokenizer: Any, architecture: str, folder: Path) -> Path:
    more = {"rotary_dim": 4} if architecture == "gptj" else {}
    room = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT_TOKENS}
    save_tiny_model(folder, architecture, **room, **more)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gptj"])
@pytest.mark.parametrize("start", ["nothing", "begin"])
def test_losses_are_those_of_transformers_on_each_text_alone(
    evaluation_examples: pl.DataFrame,
    tmp_path: Path,
    architecture: str,
    start: str,
) -> None:
    tokenizer = small_tokenizer("gpt2", start)
    folder = _saved(tokenizer, architecture, tmp_path)
    inputs = evaluation_examples.sort("example")["input"].to_list()
    suite = language_suite(evaluation_examples, 6, seed=0)
    found = measure(folder, suite, inputs, EvaluationConfig())
    table = of_model(found, "tiny", "tuned")
    assert not_predicted_once(suite, LANGUAGE_LOSSES.checked(table), ["tuned"]) == 0
    model, shortened = reference_model(folder), 0
    for row in table.iter_rows(named=True):
        whole = (
            TextEncoder(tokenizer).before + TextEncoder(tokenizer).ids([inputs[row["example"]]])[0]
        )
        shortened += len(whole) > CONTEXT_TOKENS
        ids = torch.tensor([whole[:CONTEXT_TOKENS]])
        assert (ids[0, 0] == tokenizer.bos_token_id) == (start == "begin")
        with torch.inference_mode():
            loss = model(
                input_ids=ids, labels=ids
            ).loss.item()  # the mean over all tokens but the first
        assert row["tokens"] == ids.shape[1] - 1
        assert row["nats"] / row["tokens"] == pytest.approx(loss, abs=1e-4)
    assert shortened, "some texts are longer than the model's context"


def test_a_text_of_one_token_counts_only_where_something_stands_before_it(tmp_path: Path) -> None:
    suite = LANGUAGE_SUITE.frame([("set", 0), ("set", 1)], orient="row")
    for start, tokens in (("nothing", 0), ("begin", 1)):
        tokenizer = small_tokenizer("gpt2", start)
        text = next(
            word
            for word in map(chr, range(97, 123))
            if len(TextEncoder(tokenizer).ids([word])[0]) == 1
        )
        folder = _saved(tokenizer, "llama", tmp_path / start)
        found = measure(folder, suite, [text, "a longer one"], EvaluationConfig())
        assert found["tokens"][0] == tokens
        assert (found["nats"][0] > 0) == bool(tokens)
        assert found["tokens"][1] > 1 and found["nats"][1] > 1


def test_the_losses_do_not_depend_on_what_runs_in_a_pass(
    evaluation_examples: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _saved(small_tokenizer("gpt2", "begin"), "llama", tmp_path)
    inputs = evaluation_examples.sort("example")["input"].to_list()
    suite = language_suite(evaluation_examples, 6, seed=0)
    together = measure(folder, suite, inputs, EvaluationConfig())
    monkeypatch.setattr(language, "AT_A_TIME", 1)
    alone = measure(folder, suite, inputs, EvaluationConfig())
    assert together["nats"].to_list() == pytest.approx(alone["nats"].to_list(), abs=1e-4)
    none = suite.clear()
    assert measure(folder, none, inputs, EvaluationConfig()).is_empty()
