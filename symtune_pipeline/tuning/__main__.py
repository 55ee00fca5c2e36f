"""The command that a launcher runs: `python -m symtune_pipeline.tuning --config job.json`.

Alone, or once per rank under torchrun. Exits with 2 after a user error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.launched import Say, run_launched


def main() -> int:
    """Run the job that the configuration describes."""
    parser = argparse.ArgumentParser(prog="python -m symtune_pipeline.tuning", description=__doc__)
    parser.add_argument("--config", required=True, help="the job's JSON file, local or s3://…")
    return run_launched(parser.parse_args().config, _tune)


def _tune(config: JobConfig, say: Say) -> Path:
    from symtune_pipeline.tuning.job import run_job  # takes seconds

    return run_job(config, say)


if __name__ == "__main__":
    sys.exit(main())
