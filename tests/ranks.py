"""Processes of a test that start at once, and several of them as ranks that meet over a file."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from symtune_pipeline.errors import UserError

WAIT = 300.0  # seconds


def forked() -> Any:
    """Where processes come from: forked from a server that has imported all and done nothing.

    Importing takes a process seconds, and one that has used polars cannot be forked.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "ranks",
            "symtune_pipeline.tuning.job",
            "symtune_pipeline.evaluation.job",
            "symtune_pipeline.evaluation.classification",
            "symtune_pipeline.evaluation.generation",
            "symtune_pipeline.evaluation.served",
        ]
    )
    return context


def on_ranks(
    count: int, meeting: Path, work: Callable[..., Any], *arguments: Any
) -> list[str | None]:
    """Run `work` on every rank, with torch.distributed set up as Ray Train does it.

    Returns each rank's UserError, or None; any other error fails the test. `meeting` is a file.
    """
    processes, results = start_ranks(count, meeting, work, *arguments)
    for process in processes:
        process.join(WAIT)
        process.kill()
    meeting.unlink(missing_ok=True)
    ended = sorted(results.get() for _ in processes if not results.empty())
    assert len(ended) == count, f"only these ranks ended: {ended}"
    crashed = [text for _, how, text in ended if how == "crash"]
    assert not crashed, "\n".join(crashed)
    return [text for _, _, text in ended]


def start_ranks(
    count: int, meeting: Path, work: Callable[..., Any], *arguments: Any
) -> tuple[list[Any], Any]:
    """Start the ranks; returns their processes, and the queue in which they say how they ended.

    A queue that is forgotten is gone for a process that has just been started, too.
    """
    context = forked()
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_rank, args=(number, count, meeting, results, work, *arguments))
        for number in range(count)
    ]
    for process in processes:
        process.start()
    return processes, results


def _rank(
    number: int, count: int, meeting: Path, results: Any, work: Callable[..., Any], *arguments: Any
) -> None:
    os.environ["LOCAL_RANK"] = str(number)
    ended: tuple[str, str | None] = ("well", None)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=number, world_size=count
        )
        work(*arguments)
    except UserError as error:
        ended = ("user error", str(error))
    except BaseException:
        ended = ("crash", traceback.format_exc())
    results.put((number, *ended))
