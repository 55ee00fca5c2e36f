"""Adapters tuned on a context's exemplars: held against PEFT and transformers on whole strings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from evaluation_jobs import save_model_that_reads
from kernel_loop import take_kernel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from tiny_models import reference_logprobs, reference_model

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.asking import Asking
from symtune_pipeline.evaluation.classification import classify
from symtune_pipeline.evaluation.config import JobConfig, Weights
from symtune_pipeline.evaluation.finetuned import answer_in_all_ways
from symtune_pipeline.evaluation.job import run_job
from symtune_pipeline.evaluation.predictions import run_on
from symtune_pipeline.evaluation.suites import classification_suite
from symtune_pipeline.evaluation.ways import WAYS, in_all_ways
from symtune_pipeline.files import read_table
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.trees import Layout, Query, Tree, token_logprobs
from symtune_pipeline.prompts.text import classification_prompt, label_text, render
from symtune_pipeline.sections import EvaluationConfig, Finetuned

TUNED = Finetuned(steps=3, learning_rate=3e-3)
CONFIG = EvaluationConfig(
    contexts=2, queries=2, exemplars_per_class=(1, 2), label_noise=(0.5,), finetuned=TUNED,
    precision="fp32",
)  # fmt: skip
LIKE_THE_PROMPT = ("zero-shot", "fine-tuned")  # the ways that show no exemplar


@pytest.fixture(scope="module")
def suite(evaluation_examples: pl.DataFrame, symbols: pl.DataFrame) -> pl.DataFrame:
    few = sorted(set(evaluation_examples["dataset"]))[:2]
    examples = evaluation_examples.filter(pl.col("dataset").is_in(few))
    instructions = {key: entry.instruction for key, entry in all_datasets().items()}
    return classification_suite(examples, symbols, instructions, CONFIG, seed=0)


@pytest.fixture(scope="module")
def inputs(evaluation_examples: pl.DataFrame) -> list[str]:
    return evaluation_examples.sort("example")["input"].to_list()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return save_model_that_reads(tmp_path_factory.mktemp("model"), "llama", tokenizer)


@pytest.fixture(scope="module")
def answers(folder: Path, suite: pl.DataFrame, inputs: list[str]) -> pl.DataFrame:
    return answer_in_all_ways(folder, suite, inputs, CONFIG)


def test_what_is_asked_has_no_instruction_no_noise_and_the_most_exemplars(
    suite: pl.DataFrame,
) -> None:
    asked = in_all_ways(suite)
    base = {f"{labels}, no instruction, k = 2" for labels in ("relevant labels", "symbols")}
    expected = [f"{setting}: {way}" for setting, way in product(sorted(base), WAYS)]
    assert sorted(set(asked["setting"])) == sorted(expected)
    assert len(asked) == 2 * 2 * 2 * len(expected)  # datasets, contexts, queries
    assert in_all_ways(asked.head(0)).is_empty()


def test_without_tuning_the_answers_are_those_of_the_suite(
    answers: pl.DataFrame, suite: pl.DataFrame, folder: Path, inputs: list[str]
) -> None:
    shown = answers.filter(pl.col("setting").str.ends_with(": in context")).with_columns(
        pl.col("setting").str.strip_suffix(": in context")
    )
    usual = classify(folder, suite, inputs, CONFIG)
    keys = ["setting", "dataset", "context", "query"]
    both = shown.join(usual, on=keys, suffix="_usual")
    assert len(both) == len(shown) == len(answers) // len(WAYS)
    for scores in ("logprobs", "content_free"):
        found, expected = (both[name].explode().to_list() for name in (scores, f"{scores}_usual"))
        assert found == pytest.approx(expected, abs=1e-4)


def test_tuned_answers_are_those_of_peft_on_one_string_at_a_time(
    answers: pl.DataFrame, suite: pl.DataFrame, folder: Path, inputs: list[str], tokenizer: Any
) -> None:
    rows = list(in_all_ways(suite).iter_rows(named=True))
    contexts = [*dict.fromkeys(map(_base, rows))]
    assert len(contexts) == 8
    seen = 0
    for number in (0, 5):  # the later one knows nothing of the others
        own = [
            (row, found)
            for row, found in zip(rows, answers.iter_rows(named=True), strict=True)
            if _base(row) == contexts[number]
        ]
        model = _tuned_naively(folder, own[0][0], inputs, tokenizer, number)
        for row, found in own:
            if row["setting"].endswith((": fine-tuned", ": both")):
                expected = _naive(model, row, inputs, tokenizer)
                assert found["logprobs"] == pytest.approx(expected, abs=2e-3)
                seen += 1
    assert seen == 8


def test_the_kernel_of_a_gpu_gives_the_same_answers_and_learns_from_no_branch(
    answers: pl.DataFrame, suite: pl.DataFrame, folder: Path, inputs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    calls = take_kernel(monkeypatch)
    found = answer_in_all_ways(folder, suite, inputs, CONFIG)
    assert calls
    by_kernel, expected = (each["logprobs"].explode().to_list() for each in (found, answers))
    assert by_kernel == pytest.approx(expected, abs=2e-3)
    model = load_model(folder, torch.float32, "cpu")
    branched = Layout([Tree([1, 2, 3], [Query([4], [[5, 6], [7]])])])
    with pytest.raises(ValueError, match="no gradient of log-sum-exps"):
        token_logprobs(model, branched)


def test_tuning_raises_the_exemplars_own_labels(answers: pl.DataFrame) -> None:
    by_way = {
        way: answers.filter(pl.col("setting").str.ends_with(f": {way}"))["logprobs"].explode()
        for way in WAYS
    }
    assert by_way["fine-tuned"].mean() > by_way["zero-shot"].mean() + 0.5  # type: ignore[operator]


def test_in_half_precision_new_adapters_add_nothing_and_tuned_ones_learn(
    answers: pl.DataFrame, suite: pl.DataFrame, folder: Path, inputs: list[str]
) -> None:
    halved = CONFIG.model_copy(update={"precision": "bf16"})
    found = answer_in_all_ways(folder, suite, inputs, halved)
    usual = classify(folder, suite, inputs, halved).filter(setting="symbols, no instruction, k = 2")
    shown = found.filter(setting="symbols, no instruction, k = 2: in context")
    assert shown["logprobs"].explode().to_list() == pytest.approx(
        usual["logprobs"].explode().to_list(), abs=0.3
    )
    of_both = [
        each.filter(pl.col("setting").str.ends_with(": fine-tuned"))["logprobs"].explode()
        for each in (found, answers)
    ]
    assert (of_both[0] - of_both[1]).abs().mean() < 0.3  # type: ignore[operator]


@pytest.mark.parametrize("architecture", ["mamba", "phimoe"])
def test_a_model_that_takes_no_adapters_is_refused(
    architecture: str, suite: pl.DataFrame, inputs: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    folder = save_model_that_reads(tmp_path / "model", architecture, tokenizer)
    with pytest.raises(
        UserError, match=r"takes no adapters \(.+\); set evaluation\.finetuned\.steps to 0\.$"
    ):
        answer_in_all_ways(folder, suite, inputs, CONFIG)


def test_a_model_that_ranks_share_is_refused(suite: pl.DataFrame, folder: Path) -> None:
    class Shared(Asking):
        team: Any = object()

    with pytest.raises(UserError, match=r"evaluation.finetuned.steps to 0"):
        answer_in_all_ways(folder, suite, [], CONFIG, asking=Shared())


def test_the_job_asks_in_all_ways_and_goes_on_where_it_was(
    answers: pl.DataFrame, suite: pl.DataFrame, inputs: list[str], folder: Path, tmp_path: Path
) -> None:
    suite.write_parquet(tmp_path / "suite.parquet")
    pl.DataFrame({"input": inputs}).with_row_index("example").write_parquet(tmp_path / "in.parquet")
    said: list[str] = []
    job = JobConfig(
        output_folder=tmp_path / "job", suite="finetuned", benchmarks=("icl",),
        queries=tmp_path / "suite.parquet", inputs=tmp_path / "in.parquet",
        variants={"one": Weights(folder=folder, version="1")}, made_from={"code": "1"},
        precision="fp32", chat_template=False, finetuned=TUNED,
    )  # fmt: skip
    first = read_table(run_job(job, said.append) / "one.parquet")
    expected = run_on(answers, "cpu", torch.float32, 1).drop("logprobs", "content_free")
    assert first.drop("logprobs", "content_free").equals(expected)
    (kept,) = (tmp_path / "job" / "answers").glob("*/*.jsonl")
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:3]) + lines[3][:9])  # as a kill leaves it
    (job.result_folder / "one.parquet").unlink()
    again = read_table(run_job(job, said.append) / "one.parquet")
    assert any("going on" in line for line in said)
    assert again.equals(first)
    assert said[-1].startswith("one model: 100%")


def _base(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["setting"].rpartition(": ")[0], row["dataset"], row["context"]


def _tuned_naively(
    folder: Path, row: dict[str, Any], inputs: Sequence[str], tokenizer: Any, seed: int
) -> Any:
    """The model after the steps on each exemplar as a string of its own."""
    adapters = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    model = inject_adapter_in_model(adapters, reference_model(folder))
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters("default", init_lora_weights=True)
    weights = [each for name, each in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(weights, lr=TUNED.learning_rate, weight_decay=0.0)
    for _ in range(TUNED.steps):
        optimizer.zero_grad()
        for example, target in zip(row["exemplars"], row["exemplar_targets"], strict=True):
            alone = row | {"query": example, "setting": ": zero-shot"}
            loss = -_label_logprobs(model, alone, target, inputs, tokenizer).sum()
            (loss / len(row["exemplars"])).backward()
        optimizer.step()
    return model.eval()


def _naive(model: Any, row: dict[str, Any], inputs: Sequence[str], tokenizer: Any) -> list[float]:
    with torch.no_grad():
        return [
            float(_label_logprobs(model, row, label, inputs, tokenizer).sum())
            for label in range(len(row["labels"]))
        ]


def _label_logprobs(
    model: Any, row: dict[str, Any], label: int, inputs: Sequence[str], tokenizer: Any
) -> torch.Tensor:
    unshown = row["setting"].endswith(LIKE_THE_PROMPT)
    shown = {"exemplars": [], "exemplar_targets": []} if unshown else {}
    prompt = render(classification_prompt(row | shown, inputs))
    tokens = tokenizer.encode(prompt + label_text(row["labels"][label]))
    before = len(tokenizer.encode(prompt))
    assert tokens[:before] == tokenizer.encode(prompt)
    return reference_logprobs(model, tokens)[before - 1 :]
