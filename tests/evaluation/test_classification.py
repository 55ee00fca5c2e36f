"""From rows of a suite to predictions: prompts that exceed the context, and labels in tokens."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny_models import reference_logprobs, reference_model, save_tiny_model
from tokenizer_kinds import small_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.classification import _trees, classify, predict
from symtune_pipeline.evaluation.predictions import by_context, of_model, paths
from symtune_pipeline.evaluation.scorer import Tree, score
from symtune_pipeline.evaluation.suites import classification_suite
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.prompts.text import (
    classification_prompt,
    exemplar_to_drop,
    label_text,
    render,
)
from symtune_pipeline.prompts.tokens import SegmentTokenizer, shared_beginning
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import CLASSIFICATION_SUITE

CONTEXT_TOKENS = 60
CLASSES = [0, 1, 1, 0, 1, 0]


def words() -> Any:
    """A tokenizer: a word is a token, 'same' and 'also' the same one, and '~' none."""
    known = [
        "<none>",
        "same",
        "foo",
        "bar",
        "baz",
        "Input:",
        "Output:",
        *(f"w{i}" for i in range(9)),
        *ascii_letters[:20],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, "<none>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("also", "same"), normalizers.Replace("~", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("short"), max_position_embeddings=CONTEXT_TOKENS)


def inputs(count: int) -> list[str]:
    """Six exemplars and two queries, the last of them longer than all others."""
    return [" ".join([f"w{i}"] * count) for i in range(7)] + ["w8 " * (2 * count)]


def suite(labels: list[str]) -> pl.DataFrame:
    shared = ("icl", "symbols, no instruction", 0, "reviews", 3, 0, None)
    rows = [(*shared, list(range(6)), CLASSES, labels, query, 0) for query in (6, 7)]
    return CLASSIFICATION_SUITE.frame(rows, orient="row")


def predictions(folder: Path, labels: list[str], count: int) -> pl.DataFrame:
    model = load_model(folder, torch.float32, "cpu").eval()
    return predict(model, words(), suite(labels), inputs(count))


def naive(folder: Path, row: dict[str, Any], count: int) -> list[float]:
    """Each label's full string through the model, with the exemplars of `row`."""
    model = reference_model(folder)
    prompt = render(classification_prompt(row, [*inputs(count), "N/A"]))
    encode = words().encode
    scores = []
    for label in row["labels"]:
        tokens = encode(prompt + label_text(label))
        with torch.inference_mode():
            logprobs = reference_logprobs(model, tokens)
        scores.append(float(logprobs[len(encode(prompt)) - 1 :].sum()))
    return scores


def test_a_prompt_that_fits_keeps_its_exemplars(folder: Path) -> None:
    table = predictions(folder, ["foo", "bar baz"], count=2)
    assert table["dropped"].to_list() == [0, 0]
    assert paths(of_model(table, "any", "untuned")) == {"untuned": "packed"}
    for row, logprobs in zip(
        suite(["foo", "bar baz"]).iter_rows(named=True), table["logprobs"], strict=True
    ):
        assert logprobs.to_list() == pytest.approx(naive(folder, row, 2), abs=1e-4)


def test_a_context_above_the_models_loses_exemplars_and_no_part_of_a_query(folder: Path) -> None:
    count = 8  # 11 tokens an exemplar, 19 a query with its label: 85, and 63 without two of them
    table = predictions(folder, ["foo", "bar"], count)
    assert table["dropped"].to_list() == [3, 3]
    kept = {"exemplars": [0, 1, 2], "exemplar_targets": [0, 1, 1]}
    assert Counter(CLASSES) == {0: 3, 1: 3}  # so two of one and one of the other class stay
    for row, logprobs in zip(
        suite(["foo", "bar"]).iter_rows(named=True), table["logprobs"], strict=True
    ):
        assert logprobs.to_list() == pytest.approx(naive(folder, row | kept, count), abs=1e-4)


def test_a_query_that_fits_with_no_exemplar_of_each_class_is_a_user_error(folder: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"^Context 3 of dataset 'reviews' has a prompt of \d+ tokens with one exemplar per class,"
        r" and the model takes 60; leave the dataset out\.$",
    ):
        predictions(folder, ["foo", "bar"], count=20)


@pytest.mark.parametrize("count", [2, 8], ids=["whole", "shortened"])
def test_the_content_free_query_stands_in_the_same_context_and_calibrates_the_choice(
    folder: Path, count: int
) -> None:
    """Against whole strings through transformers, with the query put into the row's own prompt."""
    labels = [*(f"w{i}" for i in range(6)), "foo", "bar baz", "baz"]
    table = predictions(folder, labels, count)
    assert (table["dropped"][0] > 0) == (count == 8)
    choices = []
    for row, found in zip(
        suite(labels).iter_rows(named=True), table.iter_rows(named=True), strict=True
    ):
        kept = {"exemplars": [0, 1, 2], "exemplar_targets": [0, 1, 1]} if count == 8 else {}
        asked = np.array(naive(folder, row | kept, count))
        nothing = np.array(naive(folder, row | kept | {"query": 8}, count))
        assert found["content_free"] == pytest.approx(nothing, abs=1e-4)
        # As the paper has it: normalised probabilities, scaled by those of the content-free query.
        p, p_free = (np.exp(x) / np.exp(x).sum() for x in (asked, nothing))
        best = int((p / p_free / (p / p_free).sum()).argmax())
        assert found["calibrated"] == best
        assert found["calibrated_correct"] == (best == found["target"])
        choices.append((found["prediction"], best))
    assert any(raw != best for raw, best in choices), "it must be able to differ"


def test_a_query_without_content_changes_no_number_of_the_others(folder: Path) -> None:
    """The branches of a context do not see each other: without that query come the same bytes."""
    model = load_model(folder, torch.float32, "cpu").eval()
    contexts, texts = by_context(suite(["foo", "bar baz"]), inputs(2))
    by_segment = SegmentTokenizer(words())
    trees = [tree for rows in contexts for tree in _trees(rows, by_segment, texts, None, False)[0]]
    without = [Tree(tree.prefix, tree.queries[:-1]) for tree in trees]
    assert [of_tree[:-1] for of_tree in score(model, trees)] == score(model, without)


def test_a_query_without_exemplars_is_scored_as_a_whole_string(folder: Path) -> None:
    model = load_model(folder, torch.float32, "cpu").eval()
    none = {"exemplars": [], "exemplar_targets": []}
    rows = [row | none for row in suite(["foo", "bar baz"]).to_dicts()]
    asked = CLASSIFICATION_SUITE.frame(rows)
    table = predict(model, words(), asked, inputs(2))
    for row, logprobs in zip(rows, table["logprobs"], strict=True):
        assert logprobs.to_list() == pytest.approx(naive(folder, row, 2), abs=1e-4)
    with pytest.raises(UserError, match=r"has a prompt of \d+ tokens with one exemplar per class"):
        predict(model, words(), asked, inputs(40))


def test_each_of_more_labels_than_a_byte_counts_can_be_predicted(folder: Path) -> None:
    labels = [f"{first} {second}" for first in ascii_letters[:20] for second in ascii_letters[:15]]
    table = predictions(folder, labels, count=2)
    whole = naive(folder, suite(labels).to_dicts()[0], count=2)
    assert table["logprobs"][0].to_list() == pytest.approx(whole, abs=1e-4)
    best = whole.index(max(whole))
    assert best > 1, "the exemplars have the first two"
    labels[best], labels[-1] = labels[-1], labels[best]
    assert predictions(folder, labels, count=2)["prediction"][0] == len(labels) - 1 == 299


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_where_one_label_begins_another_each_is_scored_with_what_follows_it(
    chat: bool, tmp_path: Path
) -> None:
    """Alone, "class 1 2" could never be more probable than "class 1"; here against whole strings."""
    tokenizer = deepcopy(small_tokenizer("llama3", "begin"))
    turns = "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    answers = "{% if add_generation_prompt %}assistant:\n{% endif %}"
    tokenizer.chat_template = "{{ bos_token }}" + turns + answers
    save_tiny_model(tmp_path, vocab_size=len(tokenizer), max_position_embeddings=4_096)
    tokenizer.save_pretrained(tmp_path)
    labels = ["class 1", "class 1 2", "class 1 2 3", "foo"]
    asked, model = suite(labels), reference_model(tmp_path)
    for texts in ([f"{word} {i}" for i in range(8)] for word in ("a", "the")):
        table = classify(tmp_path, asked, texts, EvaluationConfig(chat_template=chat))
        for row, found in zip(asked.iter_rows(named=True), table["logprobs"], strict=True):
            text = render(classification_prompt(row, texts))
            begins, end = text, "\n\n"
            if chat:
                turn = [{"role": "user", "content": text}]
                begins = tokenizer.apply_chat_template(
                    turn, tokenize=False, add_generation_prompt=True
                )
                end = "<|im_end|>\n"
            wholes = [f"{begins}{'' if chat else ' '}{label}{end}" for label in labels]
            tokens = tokenizer([begins, *wholes], add_special_tokens=not chat)["input_ids"]
            begin = min(shared_beginning([tokens[0], each]) for each in tokens[1:])
            for scored, of_label in zip(found, tokens[1:], strict=True):
                with torch.inference_mode():
                    expected = reference_logprobs(model, of_label)[begin - 1 :].sum()
                assert scored == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("labels", [["same", "also"], ["foo", "~"]])
def test_labels_of_the_same_tokens_or_none_are_a_user_error(
    folder: Path, labels: list[str]
) -> None:
    with pytest.raises(
        UserError,
        match=rf"^The labels '{labels[0]}', '{labels[1]}' of dataset 'reviews' are the same tokens, no"
        r" tokens, or the first tokens of another label for this model; rename them or leave the dataset"
        r" out\.$",
    ):
        predictions(folder, labels, count=2)


def test_prompts_in_a_chat_template_are_scored_as_whole_strings_by_a_model_that_cannot_be_packed(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame, tmp_path: Path
) -> None:
    instructions = {key: entry.instruction for key, entry in all_datasets().items()}
    config = EvaluationConfig(contexts=1, queries=2, exemplars_per_class=1)
    asked = classification_suite(evaluation_examples, symbols, instructions, config, seed=0).head(
        20
    )
    texts = evaluation_examples.sort("example")["input"].to_list()
    tokenizer = deepcopy(small_tokenizer("llama3", "begin"))
    tokenizer.chat_template = "{{ bos_token }}User: {{ messages[0]['content'] }}<|im_end|>\n"
    room = {"vocab_size": len(tokenizer), "max_position_embeddings": 4_096}
    save_tiny_model(tmp_path, "gptj", rotary_dim=4, **room)
    tokenizer.save_pretrained(tmp_path)
    table = classify(tmp_path, asked, texts, EvaluationConfig(chat_template=True))
    assert set(table["path"]) == {"plain (GPTJForCausalLM has attention code of its own)"}
    model = reference_model(tmp_path)
    for row, found in zip(asked.iter_rows(named=True), table["logprobs"], strict=True):
        message = {"role": "user", "content": render(classification_prompt(row, texts))}
        prompt = tokenizer.apply_chat_template([message], tokenize=False)
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) - 1
        for label, logprob in zip(row["labels"], found, strict=True):
            ids = tokenizer(prompt + label, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                expected = reference_logprobs(model, ids)[start:].sum().item()
            assert logprob == pytest.approx(expected, abs=1e-4)


def test_exemplars_go_evenly_by_class_and_the_last_ones_first() -> None:
    classes = [0, 1, 1, 0, 1, 1]
    dropped = []
    while (index := exemplar_to_drop(classes)) is not None:
        dropped.append((index, classes.pop(index)))
    assert dropped == [(5, 1), (4, 1), (3, 0), (2, 1)]
    assert classes == [0, 1]
