"""PyTorch's launcher of ranks, which ends without a traceback when it is interrupted or a rank dies.

Takes the arguments of `torchrun`: `python -m symtune_pipeline.jobs.on_torchrun --standalone -m …`.
"""

from __future__ import annotations

import sys

from symtune_pipeline.errors.interrupts import interrupted, run_command


def main() -> int:
    """Run the ranks to their end; they get every SIGINT and SIGTERM, too."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun()
    except ChildFailedError as error:
        if interrupted():
            raise
        rank, failure = error.get_first_failure()
        print(
            f"Rank {rank} ended with code {failure.exitcode}, so all ranks were ended.", flush=True
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, ""))  # the ranks say it
