"""The fine-tune job: `python -m symtune_pipeline.tuning --config job.json`."""

INTERRUPTED = "Tuning was interrupted; starting it again goes on from the last checkpoint."
