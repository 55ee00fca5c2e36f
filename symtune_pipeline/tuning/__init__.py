"""The fine-tune job: `python -m symtune_pipeline.tuning --config job.json`."""
