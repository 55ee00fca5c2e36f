"""The asset `packed_mixture`: what it does with prompts that no block holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from conftest import DataSide
from graph import materialise

from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.store.folder import Store

BLOCK = 100  # tokens: most prompts of the smoke experiment fit once they have lost exemplars


@pytest.mark.slow
def test_prompts_too_long_for_a_block_stop_no_run_and_are_counted(
    data_side: DataSide, tmp_path: Path
) -> None:
    root = tmp_path / "smoke"
    shutil.copytree(data_side.store.root, root)
    smoke = load_experiment("smoke")
    tuning = smoke.tuning.model_copy(update={"block_tokens": BLOCK})
    experiment = smoke.model_copy(update={"tuning": tuning})
    made = materialise(experiment, root, ["base_model", "packed_mixture"], "micro")
    assert made.success
    [metadata] = [
        event.metadata
        for event in made.asset_materializations_for_node("packed_mixture")
        if event.asset_key == dg.AssetKey("packed_mixture")
    ]
    left_out = metadata["prompts left out"].value
    store = Store(root)
    drawn = store.read_table("tuning_mixture").group_by("dataset").len()
    blocks = store.read_table("packed_mixture", "micro")
    packed = blocks["sequence_lengths"].list.len().sum()
    assert isinstance(left_out, dict) and left_out
    assert packed + sum(left_out.values()) == drawn["len"].sum()
    assert left_out.keys() <= set(drawn["dataset"])
    assert blocks["tokens"].list.len().max() <= BLOCK  # type: ignore[operator]
    assert blocks.filter(pl.col("tokens").list.len() == 0).is_empty()
