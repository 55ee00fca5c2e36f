"""Where the command `symtune` begins. What it needs is imported once it can be interrupted."""

from __future__ import annotations

import sys

from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.interrupts import run_command, unbroken


def main() -> None:
    """Run the command; a user error ends in one sentence and exit code 2, Ctrl-C in 130."""
    sys.exit(run_command(_run, "The command was interrupted."))


def _run() -> int:
    with unbroken():
        from symtune_pipeline.commands.app import app

    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
