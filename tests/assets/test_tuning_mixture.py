"""The asset `tuning_mixture`: what it says of datasets from which no example is left."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from graph import materialise

from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.store.folder import Store

WORDS = ["lamp", "chair", "shelf", "table", "paint", "screw", "glass", "cloth", "hinge", "brush"]
SET = """
    {key}:
      role: {role}
      files: {files}
      columns: [{column}]
      label_column: stars
      labels: {{1: bad, 5: good}}
      instruction: Is the review good or bad?"""
MINE = """
models: [micro]
data:
  own:{sets}
symbols: {{tuning_size: 100}}
mixture: {{prompts: 10, exemplars_per_class: [1, 2]}}
"""


def _write(path: Path, kind: str) -> None:
    texts = [f"The {kind} {a} and the {b} arrived." for a in WORDS for b in WORDS if a < b]
    frame = pl.DataFrame({"text": texts, "language": "en", "stars": [1, 5] * 22 + [1]})
    frame.write_csv(path)


def test_a_dataset_of_which_no_example_is_left_is_named_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind in ("train", "test", "other"):
        _write(tmp_path / f"{kind}.csv", kind)
    sets = "".join(
        SET.format(key=key, role=role, files=files, column=column)
        for key, role, files, column in (
            ("lost", "tuning", "{train: train.csv}", "text"),
            ("wrong_column", "tuning", "{train: other.csv}", "language"),
            ("fine", "tuning", "{train: other.csv}", "text"),
            ("held", "evaluation", "{train: train.csv, test: test.csv}", "text"),
        )
    )
    (tmp_path / "mine.yaml").write_text(MINE.format(sets=sets), encoding="utf-8")
    experiment = load_experiment(str(tmp_path / "mine.yaml"))
    made = materialise(experiment, tmp_path / "store", ["+key:tuning_mixture"])
    assert made.success
    assert set(Store(tmp_path / "store").read_table("tuning_mixture")["dataset"]) == {"fine"}
    said = capfd.readouterr().err
    assert said.count("has no row left to tune on") == 2
    assert (
        "Dataset 'lost' has no row left to tune on: each of its texts is also in an evaluation"
        in said
    )
    assert (
        "Dataset 'wrong_column' has no row left to tune on: split train has no text, or each"
        in said
    )
