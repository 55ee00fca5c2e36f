"""Whatever causal class is loaded: its numbers are those of each whole string alone, or a sentence."""

from __future__ import annotations

import json
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from scan import Found, configurations, found, make, page
from tiny_models import HELD_OUT, tiny_job

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.proof import attention_of
from symtune_pipeline.sections import Lora
from symtune_pipeline.tuning.job import run_job

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
SOME = {
    **dict.fromkeys(
        ("llama", "gpt2", "gemma3_text", "gpt_oss", "deepseek_v3", "whisper"), "packed"
    ),
    **dict.fromkeys(("bloom", "falcon", "jamba", "lfm2", "mamba", "mpt", "roberta"), "plain"),
    "bert:bidirectional": "refused",
}


def check(name: str) -> Found | str:
    """Right by 1e-4 on the path that was taken, if there is such a tiny model."""
    result = found(name)
    if isinstance(result, Found):
        assert result.worst < 1e-4
        assert (
            result.generation or result.path.endswith("language model.") or "alone" in result.path
        )
    return result


@pytest.mark.parametrize("name", SOME)
def test_scores_losses_and_gradients_are_those_of_each_string_alone(name: str) -> None:
    result = check(name)
    assert isinstance(result, Found)
    path = result.path.split(" (")[0] if result.generation else "refused"
    assert path == SOME[name]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("llama", "in batches, beginnings shared"),
        ("gemma3_text", "in batches"),  # a cache of windows drops what a longer text would see
        ("mamba", "in batches"),
        ("bart", "one by one"),
    ],
)
def test_beginnings_are_shared_and_batches_made_where_that_is_right(name: str, way: str) -> None:
    result = found(name)
    assert isinstance(result, Found)
    assert result.generation.startswith(way) and ("shared" in way) == (
        "shared" in result.generation
    )


def path_of(folder: Path, dtype: torch.dtype) -> str:
    """'packed', 'plain' or 'refused'."""
    try:
        return attention_of(load_model(folder, dtype, "cpu")).split(" (")[0]
    except UserError:
        return "refused"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *SOME.items(),
        *dict.fromkeys(("bigbird_pegasus", "blenderbot-small", "plbart"), "plain").items(),
        *dict.fromkeys(("cpmant", "doge"), "refused").items(),
    ],
)
def test_the_path_in_half_precision_is_that_of_full_precision(
    name: str, path: str, tmp_path: Path
) -> None:
    """Rounding hides much there, and what a GPU runs is half precision."""
    make(name, tmp_path)
    assert path_of(tmp_path, torch.bfloat16) == path_of(tmp_path, torch.float32) == path


@pytest.mark.slow
@pytest.mark.parametrize("name", configurations())
def test_every_causal_class_is_right_or_refused(name: str) -> None:
    result = check(name)
    if isinstance(result, str):
        pytest.skip(f"no tiny model of it: {result}")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora": Lora(rank=2), "activation_checkpointing": True}])
@pytest.mark.parametrize("name", configurations())
def test_every_causal_class_is_tuned_or_refused(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    job = tiny_job(
        tmp_path, steps=2, held_out=tmp_path / HELD_OUT, checkpoint_seconds=60, **options
    )
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        (job.model_folder / file).unlink()
    try:
        make(name, job.model_folder)
    except Exception as error:
        pytest.skip(f"no tiny model of it: {error}")
    with suppress(UserError):
        result = run_job(job, print)
        log = json.loads((result / "log.json").read_text())["log"]
        assert len(log) == 3 and all(isfinite(row["loss"]) for row in log[1:])


@pytest.mark.slow
def test_the_page_of_models_says_what_the_scan_finds() -> None:
    assert DOCS.read_text(encoding="utf-8") == page()
    results = [found(name) for name in configurations()]
    assert sum(isinstance(r, Found) and bool(r.generation) for r in results) >= 60
