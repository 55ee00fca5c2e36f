"""The evaluation job: `python -m symtune_pipeline.evaluation --config job.json`."""

import sys

from symtune_pipeline.jobs.command import run_package

if __name__ == "__main__":
    sys.exit(run_package("symtune_pipeline.evaluation", __doc__))
