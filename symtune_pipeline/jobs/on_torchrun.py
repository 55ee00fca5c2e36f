"""PyTorch's launcher of ranks on this machine: it listens nowhere, and ends without a traceback.

Takes the arguments of `torchrun` but those of the meeting point:
`python -m symtune_pipeline.jobs.on_torchrun --nproc-per-node 2 -m …`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from threading import Event, Thread

from symtune_pipeline.errors.interrupts import (
    interrupted,
    run_command,
    unbroken,
    wait_for_next_program,
)


def run_ranks(arguments: Sequence[str]) -> int:
    """Run the ranks to their end, by arguments of torchrun's; they get every SIGINT and SIGTERM, too."""
    with unbroken():  # once the command can be interrupted, whose imports take seconds
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import main as torchrun

        from symtune_pipeline.jobs.job import RANK_DIED
        from symtune_pipeline.jobs.on_one_machine import (
            keep_to_loopback,
            meeting_folder,
            torchrun_options,
        )

    keep_to_loopback()
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # torchrun would open one for the ranks
    folder = meeting_folder()
    # Ranks start with the signals blocked that this thread blocks, and unblock them in their own command.
    # A second thread, which does not block them, keeps this process hearing them.
    Thread(target=Event().wait, daemon=True).start()
    wait_for_next_program()
    try:
        torchrun([*torchrun_options(folder), *arguments])
    except ChildFailedError as error:
        if interrupted():
            raise
        rank, failure = error.get_first_failure()
        print(
            f"Rank {rank} ended with code {failure.exitcode}, so all ranks were ended.", flush=True
        )
        return RANK_DIED
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: run_ranks(sys.argv[1:]), ""))  # the ranks say it
