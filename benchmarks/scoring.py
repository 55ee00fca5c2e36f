"""Scoring the classification suites, against lm-evaluation-harness's `hf` backend.

Both score the same prompts and labels with the same weights and two threads, each in a process of its
own; the peer's are given to its `loglikelihood`, so that loading a task costs it nothing. Rendering and
tokenising count, loading the model does not. Both run in float32, whose scores are compared, and in
bfloat16; ours in float32, as `auto` chooses on a CPU, is compared with the peer's faster run. The peer
runs with the batch size that is best for it on the first prompts. The sets are the generated ones.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from benchmarks.common import Measured, Record, base_model, measured, report
from benchmarks.scoring_equality import check_equality
from symtune_pipeline.catalog.datasets import find_dataset
from symtune_pipeline.evaluation.suites import classification_suite
from symtune_pipeline.prompts.symbols import symbol_pool
from symtune_pipeline.prompts.text import classification_prompt, label_text, render
from symtune_pipeline.sections import EvaluationConfig, SymbolsConfig
from symtune_pipeline.sources.generated import generate
from symtune_pipeline.sources.normal import normal_form
from symtune_pipeline.tables import SETTINGS

THREADS = 2
BATCH_SIZES = (1, 4, 8, 16)
PRECISIONS = ("float32", "bfloat16")  # torch's names, and the harness's
SIZES = (100, 1_000, 10_000)
NATURAL, SYMBOLS = (setting.name for setting in SETTINGS if not setting.instructed)
TWO_CLASSES = ("phone_reviews", "zoo_debate", "life_events", "same_event", "group_or_single")
SIX_CLASSES = ("expeditions", "inbox")  # three each, asked as one set


@dataclass(frozen=True)
class Case:
    """What is scored: `contexts` draws of exemplars for each set, with `queries` each."""

    name: str
    sets: tuple[str, ...]
    setting: str
    contexts: int
    queries: int
    bar: float


CASES = (
    Case("shared, two multi-token labels", TWO_CLASSES, SYMBOLS, 2, 10, 10),
    Case("shared, two single-token labels", TWO_CLASSES, NATURAL, 2, 10, 4),
    Case("per query, two multi-token labels", TWO_CLASSES, SYMBOLS, 8, 1, 2.5),
    Case("per query, six multi-token labels", SIX_CLASSES, SYMBOLS, 12, 1, 8),
)


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of every query's labels, and the seconds that they took."""

    logprobs: list[list[float]]
    seconds: float


def examples_of(sets: tuple[str, ...], queries: int) -> pl.DataFrame:
    """Exemplars and at least `queries` queries of each set; those of `SIX_CLASSES` as one set."""
    frames = []
    for key in sets:
        for split, purpose, rows in (("train", "exemplar", 200), ("test", "query", queries)):
            drawn = normal_form(generate(key, split, rows, 0), find_dataset(key), split, key)
            frames.append(drawn.with_columns(purpose=pl.lit(purpose), halved=False))
    examples = pl.concat(frames)
    if sets == SIX_CLASSES:
        codes = pl.col("label").rank("dense").cast(pl.Int64) - 1
        examples = examples.with_columns(dataset=pl.lit("six classes"), label_id=codes)
    return examples.with_row_index("example").with_columns(pl.col("example").cast(pl.UInt32))


def write_inputs(folder: Path, case: Case) -> None:
    """The case's examples and its rows of a suite, whose symbols are all of several tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model())
    pool = symbol_pool(SymbolsConfig(), ()).filter(split="evaluation").sample(5_000, seed=0)
    ids = tokenizer([label_text(symbol) for symbol in pool["symbol"]])["input_ids"]
    pool = pool.filter(pl.Series([len(tokens) > 1 for tokens in ids]))
    examples = examples_of(case.sets, max(60, case.contexts * case.queries))
    names = examples["dataset"].unique()
    config = EvaluationConfig(contexts=case.contexts, queries=case.queries, flipped_percents=())
    suite = classification_suite(examples, pool, dict.fromkeys(names, ""), config, seed=0)
    suite.filter(setting=case.setting).write_parquet(folder / "suite.parquet")
    examples.write_parquet(folder / "examples.parquet")


def _read(folder: Path) -> tuple[pl.DataFrame, list[str]]:
    examples = pl.read_parquet(folder / "examples.parquet")
    return pl.read_parquet(folder / "suite.parquet"), examples["input"].to_list()


def ours(folder: Path, model_folder: Path, precision: str = "float32") -> Scored:
    """Through `classification.predict`, as the assets do."""
    import torch
    from transformers import AutoTokenizer

    from symtune_pipeline.evaluation.classification import predict
    from symtune_pipeline.models.loading import load_scorer

    torch.set_num_threads(THREADS)
    suite, inputs = _read(folder)
    model = load_scorer(model_folder, getattr(torch, precision), "cpu")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    predict(model, tokenizer, suite.head(1), inputs)  # weights are read when first used
    started = time.perf_counter()
    predictions = predict(model, tokenizer, suite, inputs)
    return Scored(predictions["logprobs"].to_list(), time.perf_counter() - started)


def peer(folder: Path, model_folder: Path, precision: str, batch_size: int) -> Scored:
    """The harness with one batch size."""
    model = _peer_model(model_folder, precision)
    suite, inputs = _read(folder)
    _peer_scored(model, suite.head(1), inputs, 1)  # as ours
    return _peer_scored(model, suite, inputs, batch_size)


def best_batch_size(folder: Path, model_folder: Path, precision: str, queries: int) -> int:
    """The peer's fastest on the first queries."""
    model = _peer_model(model_folder, precision)
    suite, inputs = _read(folder)
    first = suite.head(queries)
    _peer_scored(model, first.head(1), inputs, 1)
    return min(BATCH_SIZES, key=lambda size: _peer_scored(model, first, inputs, size).seconds)


def _peer_model(model_folder: Path, precision: str) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(THREADS)
    return HFLM(pretrained=str(model_folder), dtype=precision, device="cpu")


def _peer_scored(model: Any, suite: pl.DataFrame, inputs: list[str], batch_size: int) -> Scored:
    from lm_eval.api.instance import Instance

    model.batch_size_per_gpu = batch_size
    started = time.perf_counter()
    rows = suite.to_dicts()
    pairs = [
        (render(classification_prompt(row, inputs)), label_text(label))
        for row in rows
        for label in row["labels"]
    ]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
        for i, pair in enumerate(pairs)
    ]
    scores = iter(model.loglikelihood(requests, disable_tqdm=True))
    logprobs = [[next(scores)[0] for _ in row["labels"]] for row in rows]
    return Scored(logprobs, time.perf_counter() - started)


def compared(case: Case, folder: Path) -> list[Record]:
    """Both on one case: speed, agreement, memory."""
    write_inputs(folder, case)
    model = base_model()
    mine = {p: measured(ours, folder, model, p) for p in PRECISIONS}
    # As many queries as fill the largest batch.
    queries = math.ceil(max(BATCH_SIZES) / len(mine["float32"].value.logprobs[0]))
    sizes = {p: measured(best_batch_size, folder, model, p, queries).value for p in PRECISIONS}
    theirs = {p: measured(peer, folder, model, p, sizes[p]) for p in PRECISIONS}
    best = min(PRECISIONS, key=lambda precision: theirs[precision].value.seconds)
    name = f"{case.name}, peer in {best} with batch {sizes[best]}"
    single = mine["float32"].value
    return [
        _speed(name, single, theirs[best].value, case.bar),
        *(_speed(f"{case.name}, {p}", mine[p].value, theirs[p].value) for p in PRECISIONS),
        *_agreement(case.name, single, theirs["float32"].value, 99.5),
        *_agreement(f"{case.name}, ours in bfloat16 and float32", mine["bfloat16"].value, single),
        _memory(case, mine["float32"], theirs[best]),
    ]


def _speed(name: str, mine: Scored, theirs: Scored, bar: float | None = None) -> Record:
    rates = [len(scored.logprobs) / scored.seconds for scored in (mine, theirs)]
    ratio = rates[0] / rates[1]
    wanted = f"{bar:g} times" if bar else ""
    return Record(name, *rates, "queries/s", ratio, wanted, ratio >= bar if bar else None)


def _agreement(name: str, mine: Scored, theirs: Scored, bar: float | None = None) -> list[Record]:
    pairs = list(zip(mine.logprobs, theirs.logprobs, strict=True))
    same = 100 * sum(a.index(max(a)) == b.index(max(b)) for a, b in pairs) / len(pairs)
    apart = max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True))
    return [
        Record(f"{name}, same choice", same, None, "%", None,
               f"{bar:g}%" if bar else "", same >= bar if bar else None),
        Record(f"{name}, largest difference", apart, None, "nats"),
    ]  # fmt: skip


def _memory(case: Case, mine: Measured, theirs: Measured) -> Record:
    gigabytes = mine.peak_bytes / 1e9, theirs.peak_bytes / 1e9
    holds = gigabytes[0] <= gigabytes[1]
    ratio = gigabytes[1] / gigabytes[0]
    return Record(f"{case.name}, memory", *gigabytes, "GB", ratio, "no more", holds)


def growth(sizes: tuple[int, ...], folder: Path) -> list[Record]:
    """Time per query of ours on `micro` as the queries grow tenfold, ten to a context."""
    records = []
    per_query: list[float] = []
    for size in sizes:
        write_inputs(folder, Case("growth", TWO_CLASSES[:1], SYMBOLS, size // 10, 10, 0))
        scored = measured(ours, folder, base_model("micro")).value
        per_query.append(1e3 * scored.seconds / size)
        more = per_query[-1] / per_query[0]
        records.append(
            Record(f"micro, {size:,} queries", per_query[-1], None, "ms a query", None,
                   "" if size == sizes[0] else "grows no faster",
                   None if size == sizes[0] else more <= 1.1)
        )  # fmt: skip
    return records


def main() -> None:
    """Measure, print, write."""
    base_model()
    base_model("micro")
    records = []
    with TemporaryDirectory() as folder:
        for case in CASES:
            records += compared(case, Path(folder))
        records += growth(SIZES, Path(folder))
    records += check_equality()
    report("scoring", records)


if __name__ == "__main__":
    main()
