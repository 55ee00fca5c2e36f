"""The fine-tune job's configuration: one JSON file, so that any launcher can start it anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from symtune_pipeline.files import content_hash
from symtune_pipeline.jobs.job import Job
from symtune_pipeline.sections import Lora, LossName, OptimizerName, Trainable

# What changes no model.
PATHS_AND_PACE = {
    *("model_folder", "blocks", "held_out", "output_folder"),
    *("checkpoint_seconds", "keep_checkpoints", "checkpoint_url"),
}


class JobConfig(Job):
    """Everything that the job needs; `inputs` are the versions of the model and the prompts."""

    package: ClassVar[str] = "symtune_pipeline.tuning"
    name: ClassVar[str] = "fine-tune job"
    goes_on: ClassVar[str] = "goes on from the last checkpoint"
    result: ClassVar[str] = "model"

    model_folder: Path
    blocks: Path
    inputs: dict[str, str]
    optimizer: OptimizerName
    learning_rate: float
    warmup_steps: int
    block_tokens: int
    tokens_per_step: int  # in whole blocks, at least one
    max_grad_norm: float
    epochs: int
    steps: int | None = None  # at most
    loss: LossName
    label_smoothing: float
    precision: Literal["auto", "fp32", "bf16"]
    held_out: Path | None  # the packed held-out prompts; None: nothing is measured on them
    keep: Literal["last", "best"]
    trainable: Trainable
    lora: Lora | None
    activation_checkpointing: bool
    compile: bool
    checkpoint_seconds: float
    keep_checkpoints: int
    seed: int

    def fingerprint(self) -> str:
        """Equal for jobs that train the same model on the same blocks in the same way."""
        return content_hash(self.model_dump(mode="json", exclude=PATHS_AND_PACE))[:16]
