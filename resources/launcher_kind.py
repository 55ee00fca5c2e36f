"""The kind of a launcher, and where its jobs run, for `symtune doctor`, which imports no Dagster.

python -m resources.launcher_kind <launcher>
"""

from __future__ import annotations

import sys

from resources.launcher import load_launcher
from symtune_pipeline.errors import UserError


def main() -> None:
    """Print both as words; a file that cannot be used ends in its sentence and exit code 1."""
    try:
        launcher = load_launcher(sys.argv[1])
    except UserError as error:
        sys.exit(str(error))
    print(launcher.kind, "here" if launcher.here else "elsewhere")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
