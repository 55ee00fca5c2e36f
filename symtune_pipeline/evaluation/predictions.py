"""Predictions of the model in a folder: loads it for a suite, and lets go of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from symtune_pipeline.evaluation import classification, generation
from symtune_pipeline.models.loading import load_model


def classify(
    folder: Path, suite: pl.DataFrame, inputs: Sequence[str], progress: Callable[[int], None]
) -> pl.DataFrame:
    """Predictions on the classification suite; see `classification.predict`."""
    device, dtype = _device()
    model = load_model(folder, dtype, device).eval()
    return classification.predict(
        model, AutoTokenizer.from_pretrained(folder), suite, inputs, progress
    )


def generate(folder: Path, suite: pl.DataFrame, progress: Callable[[int], None]) -> pl.DataFrame:
    """Answers to the algorithmic suite; see `algorithmic.answer`."""
    device, dtype = _device()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return generation.answer(
        model.to(device).eval(),
        AutoTokenizer.from_pretrained(folder),
        suite,
        progress,
    )


def _device() -> tuple[str, torch.dtype]:
    """Full precision on a CPU, whose log-probabilities then do not depend on the CPU's kind."""
    return ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
