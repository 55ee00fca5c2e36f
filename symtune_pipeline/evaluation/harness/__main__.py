"""The harness's own command with the model `symtune`, for its versions that look for no plug-ins.

python -m symtune_pipeline.evaluation.harness --model symtune --model_args pretrained=<folder> --tasks …
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.interrupts import run_command


def main() -> int:
    """Run the harness with the command's arguments; a user error ends in one sentence and code 2."""
    try:
        if find_spec("lm_eval") is None:
            raise UserError(
                "lm-evaluation-harness is not installed; run pip install 'symtune-pipeline[lm-eval]'."
            )
        from lm_eval.__main__ import cli_evaluate

        import symtune_pipeline.evaluation.harness.model  # noqa: F401  # it registers itself

        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, "The evaluation was interrupted."))
