"""Several ranks in one test: processes forked from this one, which has loaded everything already."""

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


def on_ranks(
    count: int, meeting: Path, work: Callable[..., Any], *arguments: Any
) -> list[str | None]:
    """Run `work` on every rank, with torch.distributed set up as Ray Train does it.

    Returns each rank's UserError, or None; any other error fails the test. `meeting` is a file.
    """
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def rank(number: int) -> None:
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

    processes = [context.Process(target=rank, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT)
        if process.is_alive():
            process.kill()
    meeting.unlink(missing_ok=True)
    ended = sorted(results.get() for _ in processes if not results.empty())
    assert len(ended) == count, f"only these ranks ended: {ended}"
    crashed = [text for _, how, text in ended if how == "crash"]
    assert not crashed, crashed[0]
    return [text for _, _, text in ended]
