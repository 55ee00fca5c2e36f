"""Channel choices: prompts with labels before inputs, and the probability of a query's text after each."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from test_classification import inputs, suite, words
from tiny_models import reference_logprobs, reference_model, save_tiny_model
from tokenizer_kinds import INPUTS, INSTRUCTIONS, LABELS, read, small_tokenizer

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation import channel
from symtune_pipeline.evaluation.accuracy import by_setting
from symtune_pipeline.evaluation.classification import classify, predict
from symtune_pipeline.evaluation.config import JobConfig, Weights
from symtune_pipeline.evaluation.job import run_job
from symtune_pipeline.evaluation.predictions import run_on
from symtune_pipeline.files import read_table
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.prompts.text import channel_prompt, render
from symtune_pipeline.prompts.tokens import shared_beginning
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import CLASSIFICATION_SUITE

CHAT = "{{ bos_token }}User: {{ messages[0]['content'] }}<|im_end|>\n"


def odd_suite() -> pl.DataFrame:
    """A context of two queries in every format, every second one with an instruction, of odd texts."""
    rng = np.random.default_rng(0)

    def rows() -> Iterator[tuple[Any, ...]]:
        for style in range(10):
            instruction = INSTRUCTIONS[style // 2] if style % 2 else None
            *shown, first, second = rng.choice(len(INPUTS), size=5, replace=False).tolist()
            labels = rng.choice(LABELS, size=2, replace=False).tolist()
            context = ("icl", "odd", 0, "odd", style, style, instruction, shown, [0, 1, 1], labels)
            yield from [(*context, first, 0), (*context, second, 1)]

    return CLASSIFICATION_SUITE.frame(list(rows()), orient="row")


def naive(model: Any, tokenizer: Any, row: dict[str, Any], chat: bool) -> list[float]:
    """Of each label: the query's tokens in the whole string, through transformers alone."""
    query, scores = INPUTS[row["query"]], []
    for label in row["labels"]:
        prompt = render(channel_prompt(row, INPUTS, label))
        if chat:
            message = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(message, tokenize=False)
            before, whole = (
                tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (prompt, prompt + query)
            )
        else:
            before, whole = (read(tokenizer, text) for text in (prompt, f"{prompt} {query}"))
        start = shared_beginning([before, whole])
        with torch.inference_mode():
            scores.append(float(reference_logprobs(model, whole)[start - 1 :].sum()))
    return scores


@pytest.mark.parametrize(
    ("architecture", "kind", "start", "chat"),
    [
        ("llama", "gpt2", "begin", False),
        ("llama", "gemma", "begin_and_end", False),
        ("llama", "superword", "nothing", False),  # tokens reach over every junction
        ("llama", "llama3", "begin", True),
        ("gptj", "metaspace", "begin", False),
    ],
)
def test_it_is_the_log_probability_of_the_query_in_the_whole_string(
    architecture: str, kind: str, start: str, chat: bool, tmp_path: Path
) -> None:
    tokenizer = deepcopy(small_tokenizer(kind, start))
    tokenizer.chat_template = CHAT if chat else None
    more = {"rotary_dim": 4} if architecture == "gptj" else {}
    room = {"vocab_size": len(tokenizer), "max_position_embeddings": 2_048}
    save_tiny_model(tmp_path, architecture, **room, **more)
    tokenizer.save_pretrained(tmp_path)
    asked = odd_suite()
    config = EvaluationConfig(channel=True, chat_template=chat)
    found = classify(tmp_path, asked, INPUTS, config)
    (path,) = set(found["path"])
    assert path.startswith("packed" if architecture == "llama" else "plain (")
    model = reference_model(tmp_path)
    for row, predicted in zip(asked.to_dicts(), found.to_dicts(), strict=True):
        expected = naive(model, tokenizer, row, chat)
        assert predicted["channel_logprobs"] == pytest.approx(expected, abs=1e-4)
        assert predicted["channel"] == expected.index(max(expected))
        assert predicted["channel_correct"] == (predicted["channel"] == row["target"])
    assert found.filter(pl.col("channel") != pl.col("prediction")).height, (
        "it must be able to differ"
    )


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (0, "Do it.\n\nOutput: foo\nInput: one\n\nOutput: bar\nInput: two\n\nOutput: foo\nInput:"),
        (6, "Do it.\n\nY = foo\nX = one\n\nY = bar\nX = two\n\nY = foo\nX ="),
        (8, "Do it.\n\nfoo -> one\n\nbar -> two\n\nfoo ->"),
    ],
)
def test_every_label_stands_with_its_mark_before_its_input(style: int, expected: str) -> None:
    row = {
        "format": style, "instruction": "Do it.", "exemplars": [0, 1], "exemplar_targets": [0, 1],
        "labels": ["foo", "bar"], "query": 2,
    }  # fmt: skip
    assert render(channel_prompt(row, ["one", "two", "three"], "foo")) == expected
    without = row | {"exemplars": [], "exemplar_targets": [], "instruction": None}
    last = expected.split("\n\n")[-1]
    assert render(channel_prompt(without, ["one", "two", "three"], "foo")) == last


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("short"), max_position_embeddings=60)


def test_without_it_the_columns_are_null_and_the_other_numbers_are_the_same(short: Path) -> None:
    model = load_model(short, torch.float32, "cpu").eval()
    asked = suite(["foo", "bar baz"])
    without, with_it = (
        predict(model, words(), asked, inputs(2), channel=on) for on in (False, True)
    )
    own = ["channel", "channel_logprobs", "channel_correct"]
    assert all(without[name].null_count() == len(asked) for name in own)
    assert not any(with_it[name].null_count() for name in own)
    assert with_it.drop(own).equals(without.drop(own))
    assert with_it.schema == without.schema


def test_both_ways_show_the_same_exemplars_where_one_of_them_would_not_fit(short: Path) -> None:
    """All but the query's label are 60 tokens of the direct prompt; by channel the mark is one more."""
    model = load_model(short, torch.float32, "cpu").eval()
    asked, texts = suite(["foo", "bar"]), inputs(8)
    found = predict(model, words(), asked, texts, channel=True)
    assert found["dropped"].to_list() == [3, 3]
    reference = reference_model(short)
    kept = {"exemplars": [0, 1, 2], "exemplar_targets": [0, 1, 1]}
    for row, logprobs in zip(asked.to_dicts(), found["channel_logprobs"], strict=True):
        for label, logprob in zip(row["labels"], logprobs, strict=True):
            prompt = render(channel_prompt(row | kept, texts, label))
            before, whole = (
                words()(t)["input_ids"] for t in (prompt, f"{prompt} {texts[row['query']]}")
            )
            with torch.inference_mode():
                expected = reference_logprobs(reference, whole)[len(before) - 1 :].sum().item()
            assert logprob == pytest.approx(expected, abs=1e-4)


def test_many_long_inputs_after_a_label_run_in_parts(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(short, torch.float32, "cpu").eval()
    asked = suite(["foo", "bar baz"])
    whole = predict(model, words(), asked, inputs(2), channel=True)
    monkeypatch.setattr(channel, "TOGETHER", 1)
    in_parts = predict(model, words(), asked, inputs(2), channel=True)
    for one, other in zip(whole["channel_logprobs"], in_parts["channel_logprobs"], strict=True):
        assert one.to_list() == pytest.approx(other.to_list(), abs=1e-5)


def test_an_input_that_is_no_token_is_a_user_error(short: Path) -> None:
    model = load_model(short, torch.float32, "cpu").eval()
    texts = [*inputs(2)[:7], "~"]
    assert len(predict(model, words(), suite(["foo", "bar"]), texts)) == 2
    with pytest.raises(
        UserError,
        match=r"^The input of example 7 of dataset 'reviews' is no token for this model, so that it has no"
        r" probability after a label; set evaluation\.channel to false or leave the dataset out\.$",
    ):
        predict(model, words(), suite(["foo", "bar"]), texts, channel=True)


def test_the_job_asks_by_channel_where_it_is_told_to(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("gpt2")
    model = save_tiny_model(
        tmp_path / "model", vocab_size=len(tokenizer), max_position_embeddings=2_048
    )
    tokenizer.save_pretrained(model)
    odd_suite().write_parquet(tmp_path / "suite.parquet")
    examples = pl.DataFrame({"input": INPUTS}).with_row_index("example")
    examples.write_parquet(tmp_path / "examples.parquet")
    found = {}
    for by_channel in (False, True):
        job = JobConfig(
            output_folder=tmp_path / "job", suite="classification", benchmarks=("icl",),
            queries=tmp_path / "suite.parquet", inputs=tmp_path / "examples.parquet",
            variants={"one": Weights(folder=model, version="1")}, made_from={"code": "1"},
            precision="fp32", chat_template=False, channel=by_channel,
        )  # fmt: skip
        found[by_channel] = read_table(run_job(job, print) / "one.parquet")
    assert found[False]["channel"].null_count() == len(odd_suite())
    expected = classify(model, odd_suite(), INPUTS, EvaluationConfig(channel=True))
    expected = run_on(expected, "cpu", torch.float32, 1)
    assert found[True].equals(expected)
    (accuracy,) = by_setting(found[True]).to_dicts()
    assert accuracy["channel"] == pytest.approx(expected["channel_correct"].mean())
    assert accuracy["channel_low"] < accuracy["channel"] < accuracy["channel_high"]
    (without,) = by_setting(found[False]).to_dicts()
    assert without["channel"] is None and without["channel_low"] is None
