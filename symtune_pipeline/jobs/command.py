"""The command that a launcher runs: `python -m <package> --config job.json`.

Alone, or once per rank under torchrun. Exits with 2 after a user error, with 130 after Ctrl-C and
with 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
from importlib import import_module

from symtune_pipeline.errors.interrupts import run_command, unbroken


def run_package(package: str, description: str | None) -> int:
    """Run the job of a package that its command line describes; returns the exit status."""

    def main() -> int:
        parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
        parser.add_argument("--config", required=True, help="the job's JSON file, local or s3://…")
        config = parser.parse_args().config
        with unbroken():  # once the command can be interrupted, whose imports take seconds
            from symtune_pipeline.jobs.job import Program
            from symtune_pipeline.jobs.launched import run_launched

        program = Program(package)
        return run_launched(config, program, program.run)

    return run_command(main, import_module(package).INTERRUPTED)
