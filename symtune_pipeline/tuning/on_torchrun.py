"""PyTorch's launcher of ranks, which ends without a traceback when it is interrupted.

Takes the arguments of `torchrun`: `python -m symtune_pipeline.tuning.on_torchrun --standalone -m …`.
"""

from __future__ import annotations

import sys

from symtune_pipeline.errors.interrupts import run_command


def main() -> int:
    """Run the ranks to their end; they get every SIGINT and SIGTERM, too."""
    from torch.distributed.run import main as torchrun

    torchrun()
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, ""))  # the ranks say it
