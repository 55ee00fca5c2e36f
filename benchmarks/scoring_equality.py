"""Log-probabilities of `smollm2-135m` on real text against the naive way.

The naive way tokenises each label's full string and runs it alone, without a cache, through
transformers' own attention. The texts are the public sets of experiments/mirror.yaml where
SYMTUNE_MIRROR is set, the generated ones otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import Record, base_model
from symtune_pipeline.environment import mirror_folder
from symtune_pipeline.evaluation.classification import predict
from symtune_pipeline.evaluation.suites import classification_suite
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.prompts.symbols import symbol_pool
from symtune_pipeline.prompts.text import classification_prompt, label_text, render
from symtune_pipeline.sections import EvaluationConfig, SymbolsConfig
from symtune_pipeline.sources.load import load_examples, public_source
from symtune_pipeline.tables import SETTINGS

BAR = 1e-4  # in nats
SETS = 2
(INSTRUCTED,) = (s.name for s in SETTINGS if s.instructed and not s.relevant)
PROTOCOLS = {  # about as many prompts each
    "shared": EvaluationConfig(contexts=2, queries=3, flipped_percents=()),
    "per_query": EvaluationConfig(protocol="per_query", queries=4, flipped_percents=()),
}


def check_equality() -> list[Record]:
    """The largest difference by protocol, with several contexts in a pass and with one."""
    experiment = load_experiment("mirror" if mirror_folder() else "quickstart")
    held_out = [entry for entry in experiment.datasets() if entry.role == "evaluation"][:SETS]
    source = public_source(mirror_folder())
    frames = [load_examples(entry, experiment, source) for entry in held_out]
    examples = pl.concat(frames).with_row_index("example")
    purpose = pl.when(split="train").then(pl.lit("exemplar")).otherwise(pl.lit("query"))
    inputs = examples["input"].to_list()
    folder = base_model()
    model = load_model(folder, torch.float32, "cpu").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    records = []
    for protocol, config in PROTOCOLS.items():
        suite = classification_suite(
            examples.with_columns(purpose=purpose, halved=False),
            symbol_pool(SymbolsConfig(), ()),
            {entry.key: entry.instruction for entry in held_out},
            config,
            seed=0,
        ).filter(setting=INSTRUCTED)
        expected = _flat(_naive(folder, tokenizer, suite, inputs))
        alone = suite.partition_by("dataset", "context", maintain_order=True)
        for packing, suites in {"one context": alone, "several contexts": [suite]}.items():
            tables = [predict(model, tokenizer, rows, inputs) for rows in suites]
            logprobs = _flat(scores for table in tables for scores in table["logprobs"].to_list())
            largest = (logprobs - expected).abs().max().item()
            measure = f"{protocol}, {packing} a pass: difference to naive scores"
            records.append(
                Record(measure, largest, None, "nats", None, f"under {BAR:g}", largest < BAR)
            )
    return records


def _naive(
    folder: Path, tokenizer: Any, suite: pl.DataFrame, inputs: list[str]
) -> Iterator[list[float]]:
    """Log-probability of each label after each prompt of the suite."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def label_score(prompt: str, label: str) -> float:
        ids = tokenizer.encode(prompt + label_text(label), add_special_tokens=False)
        before = len(tokenizer.encode(prompt, add_special_tokens=False))
        with torch.inference_mode():
            table = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(dim=-1)
        return sum(float(table[i - 1, ids[i]]) for i in range(before, len(ids)))

    for row in suite.iter_rows(named=True):
        prompt = render(classification_prompt(row, inputs))
        yield [label_score(prompt, label) for label in row["labels"]]


def _flat(scores: Iterator[list[float]]) -> torch.Tensor:
    return torch.tensor([value for row in scores for value in row], dtype=torch.float64)
