"""Smoothed labels: what is asked of the symbols of a prompt, and a loss that is that of whole strings."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tiny_models import reference_model, save_tiny_model, tiny_job
from torch.nn.functional import cross_entropy

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.files import read_table
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.prompts.blocks import packed_blocks
from symtune_pipeline.prompts.mixture import mixture_chunks
from symtune_pipeline.prompts.symbols import SymbolSampler
from symtune_pipeline.prompts.targets import FIRST, QUERY, SEEN
from symtune_pipeline.prompts.tokens import label_tokens
from symtune_pipeline.sections import LossName, MixtureConfig
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.order import step_plan
from symtune_pipeline.tuning.smoothing import rivals_of
from symtune_pipeline.tuning.step import Block, block_loss

# Of two prompts, the symbols that stand as their labels. In the second, one begins the two others.
PROMPTS = [
    [(5, 6), (5, 7), (8,), (8,), (5, 6)],
    [(5, 6), (5, 6, 9), (5, 6, 7), (5, 6), (5, 6, 9)],
]
# What 0.3 asks of a trained label, by the label's place: at which of its tokens, and of which tokens.
ASKED: list[dict[int, tuple[int, dict[int, float]]]] = [
    {3: (0, {8: 0.8, 5: 0.2}), 4: (0, {5: 0.9, 8: 0.1})},
    {4: (2, {9: 0.85, 7: 0.15})},
]


def block_row() -> dict[str, Any]:
    """The prompts as a block, each label after some tokens of text."""
    row: dict[str, Any] = {"block": 0, "tokens": [], "sequence_lengths": []}
    row |= {"target_positions": [], "target_kinds": []}
    for labels in PROMPTS:
        start = len(row["tokens"])
        for place, label in enumerate(labels):
            row["tokens"] += [20 + place, 30, 31]
            at = len(row["tokens"])
            kind = QUERY if place == 4 else SEEN if label in labels[:place] else FIRST
            row["target_positions"] += range(at, at + len(label))
            row["target_kinds"] += [kind] * len(label)
            row["tokens"] += label
        row["sequence_lengths"].append(len(row["tokens"]) - start)
    return row


def smoothed_by_torch(folder: Path, row: dict[str, Any], loss: LossName) -> tuple[Any, Any]:
    """Loss and gradient of the LM head, from each whole prompt and probabilities over the vocabulary."""
    model = reference_model(folder)
    total, start = torch.zeros(()), 0
    for length, labels, asked in zip(row["sequence_lengths"], PROMPTS, ASKED, strict=True):
        tokens = row["tokens"][start : start + length]
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
        at = 0
        for place, label in enumerate(labels):
            at += 3
            seen = label in labels[:place] and loss == "all_labels"
            for i, token in enumerate(label):
                if place == 4 or seen:
                    smooth = place in asked and asked[place][0] == i
                    wanted = torch.zeros(logits.shape[1])
                    for each, share in (asked[place][1] if smooth else {token: 1.0}).items():
                        wanted[each] = share
                    total = total + cross_entropy(logits[at - 1], wanted)
                at += 1
        start += length
    total.backward()
    return total.item(), model.lm_head.weight.grad


@pytest.mark.parametrize("loss", ["all_labels", "final_label"])
@pytest.mark.parametrize("architecture", ["llama", "lfm2"])  # packed, and prompt by prompt
def test_the_loss_is_that_of_whole_strings_in_torch(
    loss: LossName, architecture: str, tmp_path: Path
) -> None:
    layers = {"layer_types": ["conv", "full_attention"]} if architecture == "lfm2" else {}
    folder, row = save_tiny_model(tmp_path, architecture, **layers), block_row()
    model = load_model(folder, torch.float32, "cpu")
    found = block_loss(model, Block.from_row(row, loss, len(row["tokens"]) + 5, 0.3), "fp32")[0]
    found.backward()
    expected, gradient = smoothed_by_torch(folder, row, loss)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(model.lm_head.weight.grad, gradient, atol=1e-4, rtol=1e-4)
    plain = block_loss(model, Block.from_row(row, loss, len(row["tokens"]) + 5), "fp32")[0]
    assert abs(plain.item() - expected) > 0.01


def test_no_smoothing_leaves_blocks_as_they_are() -> None:
    row = block_row()
    assert Block.from_row(row, "all_labels", 100, 0.0).rivals is None
    assert Block.from_row(row, "all_labels", 100).rivals is None


def test_rivals_are_the_other_symbols_of_real_prompts(
    tuning_examples: pl.DataFrame, symbols: pl.DataFrame, tokenizer: Any
) -> None:
    config = MixtureConfig(prompts=30, exemplars_per_class=(1, 3))
    mixture = pl.concat(
        mixture_chunks(tuning_examples, SymbolSampler(symbols, "tuning"), config, 0)
    )
    inputs = tuning_examples.sort("example")["input"]
    several = 0
    for prompt in mixture.iter_slices(1):
        [block] = pl.concat(packed_blocks([prompt], inputs, {}, tokenizer, 4_000)).to_dicts()
        query = [
            position
            for position, kind in zip(block["target_positions"], block["target_kinds"], strict=True)
            if kind == QUERY
        ]
        found = rivals_of(block, query, 0.3)
        ids = label_tokens(prompt["labels"][0].to_list(), tokenizer)
        own = ids[prompt["targets"][0][-1]]
        i = next(i for i in range(len(own)) if len({tuple(each[: i + 1]) for each in ids}) > 1)
        others = Counter(each[i] for each in ids if each != own and len(each) > i)
        others.pop(own[i], None)
        assert Counter(found.tokens.tolist()) == others
        assert set(found.targets.tolist()) == {i}
        assert found.shares.tolist() == pytest.approx([0.3 / len(ids)] * len(found.shares))
        several += len(own) > 1
    assert several > 5


def test_a_job_trains_on_smoothed_labels(tmp_path: Path) -> None:
    config = tiny_job(tmp_path, label_smoothing=0.2, steps=1, checkpoint_seconds=1_000)
    log = json.loads((run_job(config, print) / "log.json").read_text())["log"]
    table = read_table(config.blocks)
    rows = [table.row(number, named=True) for number in step_plan(len(table), config)[0]]
    model = load_model(config.model_folder, torch.float32, "cpu")
    blocks = [Block.from_row(row, config.loss, config.block_tokens, 0.2) for row in rows]
    losses = sum(block_loss(model, block, "fp32")[0].item() for block in blocks)
    assert log[-1]["loss"] == pytest.approx(losses / sum(len(b.targets) for b in blocks), rel=1e-5)


def test_smoothing_in_a_chat_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "models: [smollm2-135m]\ndata: {source: generated}\nmixture: {prompts: 10}\n"
        "tuning: {label_smoothing: 0.1}\nevaluation: {chat_template: true}\n"
    )
    with pytest.raises(UserError, match=r"set chat_template to false or tuning\.label_smoothing"):
        load_experiment(str(path))
