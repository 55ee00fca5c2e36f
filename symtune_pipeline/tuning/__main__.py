"""The command that a launcher runs: `python -m symtune_pipeline.tuning --config job.json`.

Prints progress on standard output. Exits with 2 after a user error, whose sentence is the last line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from symtune_pipeline.errors import UserError
from symtune_pipeline.tuning.config import JobConfig


def say(line: str) -> None:
    """A line for whoever launched the job."""
    print(line, flush=True)


def main() -> int:
    """Run the job that the configuration describes."""
    parser = argparse.ArgumentParser(prog="python -m symtune_pipeline.tuning", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the job's JSON file")
    path = parser.parse_args().config
    try:
        try:
            config = JobConfig.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"Job file {path} cannot be used ({reason}); write it again."
            ) from error
        from symtune_pipeline.tuning.job import run_job

        run_job(config, say)
    except UserError as error:
        print(error, flush=True)
        return 2
    except KeyboardInterrupt:
        say("Tuning was interrupted; starting it again goes on from the last checkpoint.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
