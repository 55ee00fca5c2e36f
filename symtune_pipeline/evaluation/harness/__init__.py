"""Our scorer as the model `symtune` of EleutherAI's lm-evaluation-harness, for any of its tasks."""
