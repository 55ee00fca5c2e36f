"""The command that a launcher runs: `python -m symtune_pipeline.tuning --config job.json`.

Alone, or once per rank under torchrun. Exits with 2 after a user error, with 130 after Ctrl-C and
with 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from symtune_pipeline.errors.interrupts import run_command
from symtune_pipeline.tuning import INTERRUPTED

if TYPE_CHECKING:
    from symtune_pipeline.tuning.config import JobConfig
    from symtune_pipeline.tuning.launched import Say


def main() -> int:
    """Run the job that the configuration describes."""
    parser = argparse.ArgumentParser(prog="python -m symtune_pipeline.tuning", description=__doc__)
    parser.add_argument("--config", required=True, help="the job's JSON file, local or s3://…")
    config = parser.parse_args().config
    from symtune_pipeline.tuning.launched import run_launched

    return run_launched(config, _tune)


def _tune(config: JobConfig, say: Say) -> Path:
    from symtune_pipeline.tuning.job import run_job  # takes seconds

    return run_job(config, say)


if __name__ == "__main__":
    sys.exit(run_command(main, INTERRUPTED))
