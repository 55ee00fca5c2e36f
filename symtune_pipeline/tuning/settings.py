"""A job's configuration from an experiment and a model's entry in the catalogue.

Apart from `config`, so that the job itself depends on its numbers and not on where they come from.
"""

from __future__ import annotations

from pathlib import Path

from symtune_pipeline.catalog.models import Model
from symtune_pipeline.experiment import Experiment, lora_of
from symtune_pipeline.tuning.config import JobConfig


def job_config(
    model: Model,
    experiment: Experiment,
    *,
    model_folder: Path,
    blocks: Path,
    output_folder: Path,
    inputs: dict[str, str],
    held_out: Path | None = None,
    checkpoint_url: str | None = None,
) -> JobConfig:
    """The experiment's tuning settings, completed from the model's catalogue entry."""
    settings, defaults, plan = experiment.tuning, model.tuning, model.plan
    checkpointing = settings.activation_checkpointing
    return JobConfig(
        model_folder=model_folder,
        blocks=blocks,
        held_out=held_out,
        output_folder=output_folder,
        inputs=inputs,
        optimizer=settings.optimizer or defaults.optimizer,
        learning_rate=model.learning_rate_of(settings.optimizer, settings.learning_rate),
        warmup_steps=defaults.warmup_steps,
        block_tokens=settings.block_tokens_for(model),
        tokens_per_step=settings.tokens_per_step or defaults.tokens_per_step,
        max_grad_norm=defaults.max_grad_norm,
        epochs=settings.epochs,
        steps=settings.steps or defaults.steps,
        loss=settings.loss,
        label_smoothing=settings.label_smoothing,
        precision=settings.precision or defaults.precision,
        keep=settings.keep,
        trainable=settings.trainable,
        lora=lora_of(settings, model),
        activation_checkpointing=(
            plan.activation_checkpointing if checkpointing is None else checkpointing
        ),
        compile=settings.compile,
        checkpoint_seconds=settings.checkpoint_seconds,
        keep_checkpoints=settings.keep_checkpoints,
        checkpoint_url=checkpoint_url,
        seed=experiment.seed,
    )
