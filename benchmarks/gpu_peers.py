"""The peers of `benchmarks/gpu.py`: plain loops over a transformers model, written for speed.

A step trains on packed blocks with transformers' own attention, which keeps prompts apart by the positions
that begin anew. Scoring runs each prompt with each label as a row, padded at the start so that logits are
made for the last tokens only.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import torch

from symtune_pipeline.prompts.text import classification_prompt, label_text, render
from symtune_pipeline.tuning.step import Block


def plain_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    blocks: list[Block],
    together: int,
    max_grad_norm: float,
) -> float:
    """A step on the mean loss over the blocks' targets, so many blocks a pass; returns it in nats."""
    device = model.device
    targets = sum(len(block.targets) for block in blocks)
    total = torch.zeros((), device=device)
    for first in range(0, len(blocks), together):
        ids, positions, labels = (
            torch.stack(rows).to(device)
            for rows in zip(*map(_row, blocks[first : first + together]), strict=True)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(
                input_ids=ids,
                position_ids=positions,
                labels=labels,
                num_items_in_batch=targets,
                use_cache=False,
            ).loss
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total)


def _row(block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, positions, and labels that are -100 off the targets [T]."""
    labels = torch.full_like(block.tokens, -100)
    labels[block.targets] = block.tokens[block.targets]
    return block.tokens, torch.cat([torch.arange(length) for length in block.lengths]), labels


@torch.inference_mode()
def plain_scores(
    model: Any, tokenizer: Any, suite: pl.DataFrame, *, inputs: list[str], batch: int
) -> list[float]:
    """The log-probability of every label of every query, in their order."""
    prompts, whole = [], []
    for row in suite.iter_rows(named=True):
        prompt = render(classification_prompt(row, inputs))
        prompts += [prompt] * len(row["labels"])
        whole += [prompt + label_text(label) for label in row["labels"]]
    starts = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    strings = tokenizer(whole)["input_ids"]
    order = sorted(range(len(strings)), key=lambda i: len(strings[i]))
    scores = [0.0] * len(strings)
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        width = max(len(strings[i]) for i in rows)
        keep = max(len(strings[i]) - starts[i] for i in rows)
        ids = torch.tensor([[0] * (width - len(strings[i])) + strings[i] for i in rows])
        mask = torch.tensor([[0] * (width - len(strings[i])) + [1] * len(strings[i]) for i in rows])
        logits = model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
            logits_to_keep=keep + 1,
            use_cache=False,
        ).logits[:, :-1]
        labels = ids[:, -keep:].to(model.device)
        found = logits.float().log_softmax(-1).gather(2, labels[..., None])[..., 0].cpu()
        for i, of_row in zip(rows, found, strict=True):
            scores[i] = float(of_row[-(len(strings[i]) - starts[i]) :].sum())
    return scores
