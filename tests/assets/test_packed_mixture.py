"""The asset `packed_mixture`: what it does with prompts that no block holds."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from graph import materialise

from symtune_pipeline.experiment import Experiment, load_experiment
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
TEXTS = [f"The {a} and the {b} arrived." for a in WORDS for b in WORDS if a < b]


def _experiment(folder: Path, reviews: pl.DataFrame) -> Experiment:
    """The experiment of `MINE`, with these reviews."""
    reviews.write_csv(folder / "reviews.csv")
    (folder / "mine.yaml").write_text(MINE, encoding="utf-8")
    return load_experiment(str(folder / "mine.yaml"))


def test_a_mixture_is_not_packed_with_the_texts_of_other_examples(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": TEXTS, "stars": [1, 5] * 22 + [1]})
    experiment, root = _experiment(tmp_path, frame), tmp_path / "store"
    assert materialise(experiment, root, ["+key:packed_mixture"], "micro").success
    _experiment(tmp_path, frame[1:])
    assert materialise(experiment, root, ["+key:int_tuning_examples"]).success

    again = materialise(experiment, root, ["int_contamination", "packed_mixture"], "micro")
    [failed] = [event.step_failure_data for event in again.all_events if event.is_step_failure]
    assert failed.user_failure_data
    assert failed.user_failure_data.description == (
        f"'tuning_mixture' in {root} was made from an earlier version of 'int_tuning_examples';"
        " materialise 'tuning_mixture' first."
    )
    assert materialise(experiment, root, ["tuning_mixture", "packed_mixture"], "micro").success


@pytest.mark.slow
def test_one_long_example_stops_no_run_and_its_prompts_are_counted(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": TEXTS, "stars": [1, 5] * 22 + [1]})
    long = pl.DataFrame({"text": [" ".join(TEXTS * 3)], "stars": [5]})
    experiment = _experiment(tmp_path, pl.concat([frame, long]))
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
