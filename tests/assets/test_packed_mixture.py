"""The asset `packed_mixture`: what it does with prompts that no block holds."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from graph import materialise

from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.store.folder import Store

WORDS = ["lamp", "chair", "shelf", "table", "paint", "screw", "glass", "cloth", "hinge", "brush"]
MINE = """
models: [micro]
data:
  own:
    reviews:
      role: tuning
      files: {train: reviews.csv}
      columns: [text]
      label_column: stars
      labels: {1: bad, 5: good}
      instruction: Is the review good or bad?
mixture: {prompts: 200, exemplars_per_class: [1, 2]}
tuning: {block_tokens: 512}
"""


@pytest.mark.slow
def test_one_long_example_stops_no_run_and_its_prompts_are_counted(tmp_path: Path) -> None:
    texts = [f"The {a} and the {b} arrived." for a in WORDS for b in WORDS if a < b]
    frame = pl.DataFrame({"text": texts, "stars": [1, 5] * 22 + [1]})
    long = pl.DataFrame({"text": [" ".join(texts * 3)], "stars": [5]})
    pl.concat([frame, long]).write_csv(tmp_path / "reviews.csv")
    (tmp_path / "mine.yaml").write_text(MINE, encoding="utf-8")
    experiment = load_experiment(str(tmp_path / "mine.yaml"))
    root = tmp_path / "store"
    made = materialise(experiment, root, ["+key:packed_mixture"], "micro")
    assert made.success
    store = Store(root)
    examples = store.read_table("int_tuning_examples")
    [number] = examples.filter(pl.col("input").str.len_chars() > 1_000)["example"]
    mixture = store.read_table("tuning_mixture")
    asked = mixture.filter(pl.col("examples").list.last() == number)
    assert len(asked), "the case under test must occur"

    [event] = made.asset_materializations_for_node("packed_mixture")
    left_out = event.metadata["prompts left out"].value
    assert isinstance(left_out, dict)
    blocks = store.read_table("packed_mixture", "micro")
    packed = blocks["sequence_lengths"].list.len().sum()
    for name in ("exemplars left out", "prompts with too few exemplars"):
        assert isinstance(event.metadata[name].value, dict)
    assert len(asked) <= left_out["reviews"] == len(mixture) - packed < len(mixture)
