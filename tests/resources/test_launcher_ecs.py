"""A job on a machine that shares no folder with the launcher: through s3, and as an ECS task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from evaluation_jobs import Asked, save_model_that_reads, tables
from launching import Launched, launch
from tiny_models import tiny_job

from resources.launcher import EcsLauncher
from symtune_pipeline.evaluation import job as evaluation
from symtune_pipeline.evaluation.config import JobConfig as EvaluationJob
from symtune_pipeline.jobs.job_file import opened_job, put_job
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job

ECS = EcsLauncher(
    staging="s3://bucket/staging", cluster="gpus", task_definition="tuning", container="tuning"
)


# The server behind `s3` has ECS, too.
pytestmark = pytest.mark.usefixtures("s3")


def test_a_job_on_s3_brings_its_inputs_and_its_result_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    config = tiny_job(tmp_path / "here")
    bucket = Bucket(f"s3://bucket/{tmp_path.name}")
    with opened_job(put_job(config, bucket), JobConfig) as elsewhere:
        assert not elsewhere.output_folder.is_relative_to(tmp_path)
        run_job(elsewhere, print)
    bucket.download_folder("model", tmp_path / "fetched")
    fetched = Launched(tmp_path / "fetched", None, []).losses()
    assert fetched == Launched(run_job(config, print), None, []).losses()


def test_an_evaluation_on_s3_makes_the_tables_that_it_makes_here_and_keeps_its_answers_there(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame, tokenizer: Any, tmp_path: Path
) -> None:
    for name in ("asked", "model"):
        (tmp_path / name).mkdir()
    asked = Asked.written(tmp_path / "asked", evaluation_examples, symbols)
    model = save_model_that_reads(tmp_path / "model", "llama", tokenizer)
    here = asked.job(tmp_path / "here", "algorithmic", {"one": model})
    bucket = Bucket(f"s3://bucket/{tmp_path.name}")
    address = put_job(here, bucket)
    evaluation.run_job(here, print)
    for _ in range(2):  # the second finds the answers of the first
        with opened_job(address, EvaluationJob) as there:
            evaluation.run_job(there, print)
        bucket.download_folder(here.result, tmp_path / "fetched")
        fetched = {path.stem: path.read_bytes() for path in (tmp_path / "fetched").iterdir()}
        assert fetched == tables(here)
    answers = [key for key in bucket.keys("checkpoints") if bucket.read_text(key)]
    assert len(answers) == 1


def test_a_task_definition_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    error = launch(ECS, tiny_job(tmp_path)).error
    assert error and error.startswith("The fine-tune job on ECS did not come to its end (")
    assert "task definition" in error and "\n" not in error


def test_without_a_place_on_s3_for_its_jobs_it_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path))
    error = launch(ECS.model_copy(update={"staging": None}), tiny_job(tmp_path)).error
    assert error and error.startswith(
        "The launcher of ECS passes jobs on through S3; set `staging`"
    )
