"""lm-evaluation-harness on a few-shot task, with its model `symtune` and with its own `hf`.

Both run the same task on local data with the same weights in float32 and two threads, each in a process
of its own; what is timed is the answering of the task's requests, tokenising included. `hf` runs with the
batch size that is best for it on the first documents. The sets are the generated ones.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.common import Record, base_model, measured, report
from benchmarks.scoring import BATCH_SIZES, SIX_CLASSES, THREADS, TWO_CLASSES, examples_of

SHOTS, DOCUMENTS, TRIED = 8, 60, 8


@dataclass(frozen=True)
class Case:
    """A task: its sets as one, and whether all documents have the same exemplars."""

    name: str
    sets: tuple[str, ...]
    same: bool
    bar: float | None


CASES = (
    Case("two classes, the same exemplars for all", TWO_CLASSES[:1], True, 3),
    Case("six classes, the same exemplars for all", SIX_CLASSES, True, 3),
    Case("six classes, exemplars drawn for each document", SIX_CLASSES, False, None),
)


@dataclass(frozen=True)
class Answered:
    """Log-likelihoods of every request, the accuracy, and the seconds that they took."""

    logprobs: list[float]
    accuracy: float
    seconds: float


def write_task(folder: Path, case: Case) -> None:
    """The task `few_shot` with its data, as the harness reads them."""
    examples = examples_of(case.sets, DOCUMENTS)
    labels = sorted(examples["label"].unique())
    for purpose in ("exemplar", "query"):
        rows = (
            examples.filter(purpose=purpose)
            .sample(fraction=1, shuffle=True, seed=0)
            .head(DOCUMENTS)
        )
        lines = (
            json.dumps(
                {"text": row["input"], "labels": labels, "target": labels.index(row["label"])}
            )
            for row in rows.iter_rows(named=True)
        )
        (folder / f"{purpose}.jsonl").write_text("\n".join(lines))
    files = {name: str(folder / f"{name}.jsonl") for name in ("exemplar", "query")}
    settings = {
        "task": "few_shot", "dataset_path": "json", "dataset_kwargs": {"data_files": files},
        "test_split": "query", "fewshot_split": "exemplar", "num_fewshot": SHOTS,
        "output_type": "multiple_choice", "doc_to_text": "Input: {{text}}\nOutput:",
        "doc_to_choice": "labels", "doc_to_target": "target", "metric_list": [{"metric": "acc"}],
    } | ({"fewshot_config": {"sampler": "first_n"}} if case.same else {})  # fmt: skip
    (folder / "few_shot.yaml").write_text(yaml.safe_dump(settings))


def answered(folder: Path, model_folder: Path, model: str, batch_size: int, limit: int) -> Answered:
    """What the harness finds on the first documents."""
    import datasets
    import torch
    from lm_eval.api.registry import get_model
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    import symtune_pipeline.evaluation.harness.model  # noqa: F401  # registers it

    torch.set_num_threads(THREADS)
    datasets.config.HF_DATASETS_CACHE = str(folder / "cache")  # type: ignore[assignment]
    datasets.config.HF_HUB_OFFLINE = True
    settings = {"dtype": "float32", "device": "cpu", "batch_size": batch_size}
    loaded = get_model(model)(pretrained=str(model_folder), **settings)

    def run(documents: int) -> Any:
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        return simple_evaluate(
            loaded, tasks=["few_shot"], limit=documents, task_manager=manager, bootstrap_iters=0
        )

    run(1)  # weights are read when first used
    answer, seconds = loaded.loglikelihood, 0.0

    def timed(requests: Any, **options: Any) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        found = answer(requests, **options)
        seconds = time.perf_counter() - started
        return found

    loaded.loglikelihood = timed
    found = run(limit)
    samples = sorted(found["samples"]["few_shot"], key=lambda sample: sample["doc_id"])
    logprobs = [logprob for s in samples for ((logprob, _),) in s["resps"]]
    return Answered(logprobs, found["results"]["few_shot"]["acc,none"], seconds)


def compared(case: Case, folder: Path, key: str = "smollm2-135m") -> list[Record]:
    """Both on one task: speed, accuracy, agreement, memory."""
    write_task(folder, case)
    model = base_model(key)
    best = min(
        BATCH_SIZES,
        key=lambda size: measured(answered, folder, model, "hf", size, TRIED).value.seconds,
    )
    theirs = measured(answered, folder, model, "hf", best, DOCUMENTS)
    mine = measured(answered, folder, model, "symtune", 1, DOCUMENTS)
    ours, peer = mine.value, theirs.value
    ratio = peer.seconds / ours.seconds
    rates = DOCUMENTS / ours.seconds, DOCUMENTS / peer.seconds
    bar, holds = (f"{case.bar:g} times", ratio >= case.bar) if case.bar else ("", None)
    apart = max(abs(a - b) for a, b in zip(ours.logprobs, peer.logprobs, strict=True))
    same = ours.accuracy == peer.accuracy
    gigabytes = mine.peak_bytes / 1e9, theirs.peak_bytes / 1e9
    memory = gigabytes[1] / gigabytes[0]
    return [
        Record(f"{case.name}, peer's batch {best}", *rates, "documents/s", ratio, bar, holds),
        Record(f"{case.name}, accuracy", ours.accuracy, peer.accuracy, "", None, "equal", same),
        Record(f"{case.name}, largest difference", apart, None, "nats"),
        Record(f"{case.name}, memory", *gigabytes, "GB", memory),
    ]


def main() -> None:
    """Measure, print, write."""
    records = []
    for case in CASES:
        with TemporaryDirectory() as folder:
            records += compared(case, Path(folder))
    report("harness", records)


if __name__ == "__main__":
    main()
