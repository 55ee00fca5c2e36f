"""The evaluation job: alone, on several ranks, killed, and where its ranks do not agree."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from evaluation_jobs import Asked, kept, save_model_that_reads, tables
from ranks import on_ranks, start_ranks

from symtune_pipeline.evaluation.classification import classify
from symtune_pipeline.evaluation.config import JobConfig
from symtune_pipeline.evaluation.generation import generate
from symtune_pipeline.evaluation.job import run_job
from symtune_pipeline.evaluation.predictions import packages
from symtune_pipeline.files import read_table
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import Suite

FAMILIES = ("llama", "olmo2", "gpt_neox")
KILLS = 10
SUITES: tuple[Suite, ...] = ("classification", "algorithmic")


@pytest.fixture(scope="module")
def asked(
    evaluation_examples: pl.DataFrame,
    symbols: pl.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> Asked:
    return Asked.written(tmp_path_factory.mktemp("asked"), evaluation_examples, symbols)


@pytest.fixture(scope="module")
def llama(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model_that_reads(tmp_path_factory.mktemp("llama"), "llama", tokenizer)


def run_all(*jobs: JobConfig) -> None:
    for job in jobs:
        run_job(job, print)


def run_own(jobs: list[JobConfig]) -> None:
    """Each rank runs another job, as where its machine shows it other files."""
    run_job(jobs[int(os.environ["LOCAL_RANK"])], print)


# --- one rank -----------------------------------------------------------------------------------


def test_the_tables_are_what_each_model_predicts_when_it_is_asked_all_at_once(
    asked: Asked, llama: Path, tmp_path: Path
) -> None:
    scored = asked.job(tmp_path / "scored", "classification", {"one": llama, "other": llama})
    completed = asked.job(tmp_path / "completed", "algorithmic", {"one": llama})
    run_all(scored, completed)
    settings = EvaluationConfig(precision="fp32")
    assert scored.inputs
    inputs = read_table(scored.inputs).sort("example")["input"].to_list()
    expected = here(classify(llama, read_table(scored.queries), inputs, settings))
    for variant in ("one", "other"):
        assert read_table(scored.result_folder / f"{variant}.parquet").equals(expected)
    whole = here(generate(llama, read_table(completed.queries), settings))
    assert read_table(completed.result_folder / "one.parquet").equals(whole)


def here(predictions: pl.DataFrame) -> pl.DataFrame:
    """As the job has it, whose tables also say what ran the model."""
    return predictions.with_columns(pl.col("path") + f", fp32 on cpu, {', '.join(packages())}")


def test_only_the_benchmarks_that_are_named_are_asked(
    asked: Asked, llama: Path, tmp_path: Path
) -> None:
    config = asked.job(tmp_path, "classification", {"one": llama}, benchmarks=("flipped",))
    table = read_table(run_job(config, print) / "one.parquet")
    assert table["setting"].unique().sort().to_list() == ["100% flipped", "zero-shot"]


def test_what_is_finished_is_not_asked_again_and_what_differs_is(
    asked: Asked, llama: Path, tmp_path: Path
) -> None:
    config = asked.job(tmp_path, "classification", {"one": llama}, benchmarks=("flipped",))
    run_job(config, print)
    first, passes = tables(config), kept(config)
    lines: list[str] = []
    run_job(config, lines.append)
    assert (tables(config), kept(config), lines) == (first, passes, [])
    for changed in ({"made_from": {"code": "2"}}, {"precision": "bf16"}):
        other = config.model_copy(update=changed)
        run_job(other, print)
        assert len(kept(other)) > len(passes)
        passes = kept(other)
        assert tables(other) != first


def test_an_evaluation_goes_on_from_a_bucket_where_its_folder_is_gone(
    asked: Asked, llama: Path, s3: str, tmp_path: Path
) -> None:
    url = f"{s3}/{tmp_path.name}"
    config = asked.job(tmp_path / "job", "classification", {"one": llama}, checkpoint_url=url)
    run_job(config, print)
    whole = tables(config)
    shutil.rmtree(config.output_folder)
    lines: list[str] = []
    run_job(config, lines.append)
    assert lines[0].startswith("one model: going on, ")
    assert tables(config) == whole
    assert len(kept(config)) == len(set(kept(config))), "none was asked again"


def test_an_evaluation_goes_on_where_it_was_and_ignores_a_line_that_a_kill_cut_off(
    asked: Asked, llama: Path, tmp_path: Path
) -> None:
    config = asked.job(tmp_path, "classification", {"one": llama})
    run_job(config, print)
    whole, passes = tables(config), kept(config)
    (path,) = config.output_folder.glob("answers/*/*.jsonl")
    lines = path.read_text().splitlines()
    cut = "\n".join([*lines[:3], lines[3][: len(lines[3]) // 2]])
    path.write_bytes(cut.encode() + b"\xff\x00\n17\n" + lines[4][:9].encode())
    (config.result_folder / "one.parquet").unlink()
    said: list[str] = []
    run_job(config, said.append)
    assert tables(config) == whole
    assert sorted(kept(config)) == sorted(passes)
    assert any("going on, " in line and "were answered before" in line for line in said)


# --- several ranks ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_two_and_three_ranks_make_the_tables_of_one_byte_for_byte(
    family: str, asked: Asked, tokenizer: Any, tmp_path: Path
) -> None:
    model = save_model_that_reads(tmp_path / "model", family, tokenizer)

    def jobs(name: str) -> list[JobConfig]:
        return [asked.job(tmp_path / name / suite, suite, {"one": model}) for suite in SUITES]

    alone = jobs("alone")
    run_all(*alone)
    assert [len(kept(job)) > 1 for job in alone] == [True, True]
    for ranks in (2, 3):
        shared = jobs(f"{ranks} ranks")
        assert on_ranks(ranks, tmp_path / "meeting", run_all, *shared) == [None] * ranks
        assert [tables(job) for job in shared] == [tables(job) for job in alone]
        assert [sorted(kept(job)) for job in shared] == [sorted(kept(job)) for job in alone]
        files = [path.name[0] for path in shared[0].output_folder.glob("answers/*/*.jsonl")]
        assert sorted(files) == [str(rank) for rank in range(ranks)]


@pytest.mark.slow
def test_a_rank_with_nothing_to_do_is_right(asked: Asked, llama: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    few = read_table(asked.folder / "classification.parquet").head(2)
    few.write_parquet(tmp_path / "few.parquet")
    alone, shared = (
        asked.job(
            tmp_path / name, "classification", {"one": llama}, queries=tmp_path / "few.parquet"
        )
        for name in ("alone", "shared")
    )
    run_job(alone, print)
    assert len(kept(alone)) == 1
    assert on_ranks(3, tmp_path / "meeting", run_all, shared) == [None] * 3
    assert tables(shared) == tables(alone)


@pytest.mark.slow
def test_kills_at_random_moments_on_any_number_of_ranks_end_in_the_same_tables(
    asked: Asked, llama: Path, tmp_path: Path
) -> None:
    whole, config = (
        asked.job(tmp_path / name, "classification", {"one": llama, "other": llama})
        for name in ("whole", "killed")
    )
    run_job(whole, print)
    passes = len(kept(whole))
    moments = sorted(random.sample(range(passes - 1), KILLS))
    for kill, moment in enumerate(moments):
        ranks, _results = start_ranks(1 + kill % 3, tmp_path / f"meeting{kill}", run_all, config)
        while len(kept(config)) <= moment and any(rank.is_alive() for rank in ranks):
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.05))
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.join()
    assert on_ranks(2, tmp_path / "meeting", run_all, config) == [None] * 2
    assert tables(config) == tables(whole), moments
    assert sorted(kept(config)) == sorted(kept(whole)), moments  # and none was asked twice


# --- ranks that do not agree ----------------------------------------------------------------------


@pytest.mark.slow
def test_ranks_that_see_another_suite_are_one_sentence(
    asked: Asked, llama: Path, tmp_path: Path
) -> None:
    other = read_table(asked.folder / "classification.parquet").head(5)
    other.write_parquet(tmp_path / "other.parquet")
    job = asked.job(tmp_path / "job", "classification", {"one": llama})
    jobs = [job, job.model_copy(update={"queries": tmp_path / "other.parquet"})]
    ended = on_ranks(2, tmp_path / "meeting", run_own, jobs)
    sentence = "Rank 1 of the evaluation has another suite than rank 0, or other settings; give all"
    assert [bool(text and text.startswith(sentence)) for text in ended] == [True, True]
    assert not tables(job)


@pytest.mark.slow
def test_a_rank_that_lacks_the_suite_or_the_model_or_the_folder_is_the_sentence_of_all(
    asked: Asked, llama: Path, tmp_path: Path
) -> None:
    job = asked.job(tmp_path / "job", "classification", {"one": llama})
    absent = tmp_path / "absent"
    gone = {
        "queries": (absent / "suite.parquet", f"The suite {absent}/suite.parquet cannot be read ("),
        "output_folder": (tmp_path / "own", "Rank 0 has answered and its answers are not in"),
    }
    for field, (path, sentence) in gone.items():
        jobs = [job, job.model_copy(update={field: path})]
        ended = on_ranks(2, tmp_path / "meeting", run_own, jobs)
        assert [text for text in ended if text and text.startswith(sentence)], ended
        assert all(ended), "a rank believes that all is well"
    empty = asked.job(tmp_path / "job", "classification", {"one": absent})
    ended = on_ranks(2, tmp_path / "meeting", run_own, [job, empty])
    assert ended[0] == ended[1] and ended[0] and str(absent) in ended[0]


# --- its file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "{", '{"suite": "words"}', "escape"])
def test_a_bad_job_file_ends_in_one_sentence(
    content: str | None, asked: Asked, llama: Path, tmp_path: Path
) -> None:
    path = tmp_path / "job.json"
    if content == "escape":
        job = asked.job(tmp_path, "classification", {"one": llama}).model_dump(mode="json")
        job["variants"] = {"../one": job["variants"]["one"]}
        content = json.dumps(job)
    if content is not None:
        path.write_text(content)
    command = [sys.executable, "-m", "symtune_pipeline.evaluation", "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "")
    (line,) = ended.stdout.splitlines()
    assert line.startswith(f"Job file {path} cannot be used (")
