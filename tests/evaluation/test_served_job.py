"""A served variant in the evaluation job: beside a folder's, killed, and where its model changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from evaluation_jobs import Asked, kept, save_model_that_reads, tables
from model_server import KEY, NAME, ModelServer
from ranks import on_ranks
from tiny_models import reference_model

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation import served
from symtune_pipeline.evaluation.config import Endpoint, JobConfig, Weights
from symtune_pipeline.evaluation.job import run_job
from symtune_pipeline.evaluation.server import Server
from symtune_pipeline.files import read_table


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


@pytest.fixture
def server(llama: Path) -> Iterator[ModelServer]:
    with ModelServer(llama).serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Server.__init__
    monkeypatch.setattr(
        Server, "__init__", lambda self, url, key=None: made(self, url, key, 5.0, 0.01)
    )


@pytest.fixture
def _small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "PASS", 16)


small_passes = pytest.mark.usefixtures("_small_passes")


def job_of(server: ModelServer, asked: Asked, folder: Path, **changed: Any) -> JobConfig:
    """A job on the flipped labels of a served model, and of the same one in its folder."""
    settings = {"url": server.url, "protocol": "sglang", "tokenizer": server.folder}
    variants = {
        "folder": Weights(folder=server.folder, version="1"),
        "served": Endpoint(**{"model": NAME, "version": "2", **settings}),  # type: ignore[arg-type]
    }
    job = asked.job(folder, "classification", {}, benchmarks=("flipped",), variants=variants)
    return job.model_copy(update=changed)


def only_served(job: JobConfig, folder: Path) -> JobConfig:
    variants = {"served": job.variants["served"]}
    return job.model_copy(update={"variants": variants, "output_folder": folder})


def test_its_table_is_that_of_the_folder_and_its_key_is_nowhere(
    server: ModelServer, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.needs_key = True
    job = job_of(server, asked, tmp_path / "job")
    said: list[str] = []
    result = run_job(JobConfig.model_validate_json(job.model_dump_json()), said.append)
    ours, local = (read_table(result / f"{name}.parquet") for name in ("served", "folder"))
    assert ours["prediction"].equals(local["prediction"])
    for found, expected in zip(ours["logprobs"], local["logprobs"], strict=True):
        assert found.to_list() == pytest.approx(expected.to_list(), abs=1e-4)
    assert any("served model" in line for line in said)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in (*written, repr(said).encode()))


@small_passes
def test_an_evaluation_that_broke_off_goes_on_and_asks_nothing_twice(
    server: ModelServer, asked: Asked, tmp_path: Path
) -> None:
    whole = only_served(job_of(server, asked, tmp_path), tmp_path / "whole")
    run_job(whole, print)
    every = len(server.asked)
    server.asked.clear()

    job = only_served(whole, tmp_path / "broken")
    server.after, server.then = every // 2, {"troubles": 1_000, "trouble": None}
    with pytest.raises(UserError, match="does not answer"):
        run_job(job, print)
    before, found = len(server.asked), kept(job)
    assert 0 < len(found) < len(kept(whole))
    server.troubles = 0
    said: list[str] = []
    run_job(job, said.append)
    assert tables(job) == tables(whole)
    assert sorted(kept(job)) == sorted(kept(whole))
    assert any("going on, " in line for line in said)
    asked_again = before + len(server.asked[before:]) - every
    assert asked_again <= 40, "the pass that was broken off, and the first prompt after each"

    server.troubles = 1_000  # what is finished needs no server
    run_job(job, print)


@small_passes
def test_a_model_that_changes_in_between_loses_nothing(
    server: ModelServer, asked: Asked, tmp_path: Path
) -> None:
    whole = only_served(job_of(server, asked, tmp_path), tmp_path / "whole")
    run_job(whole, print)
    every = len(server.asked)
    job = only_served(whole, tmp_path / "job")
    first = server.root
    server.after, server.then = every + every // 2, {"root": "/weights/other"}
    with pytest.raises(UserError, match="has another model under the name 'tiny' than when it was"):
        run_job(job, print)
    found = kept(job)
    assert found
    server.root = first
    run_job(job, print)
    assert tables(job) == tables(whole)
    assert set(found) < set(kept(job))


@small_passes
def test_answers_of_two_models_under_one_name_are_never_one_table(
    server: ModelServer, asked: Asked, tokenizer: Any, tmp_path: Path
) -> None:
    """The server was started again with other weights, and says the same of them."""
    job = only_served(job_of(server, asked, tmp_path), tmp_path / "job")
    server.after, server.then = 60, {"troubles": 1_000, "trouble": None}
    with pytest.raises(UserError, match="does not answer"):
        run_job(job, print)
    assert kept(job)
    server.troubles = 0
    own = server.model
    server.model = reference_model(save_model_that_reads(tmp_path / "x", "olmo2", tokenizer))
    with pytest.raises(UserError, match=r"than when this began; .* and remove") as changed:
        run_job(job, print)
    (folder,) = (job.output_folder / "answers").iterdir()
    assert f"remove {folder} to ask it anew" in str(changed.value)
    assert not tables(job)
    server.model = own


@pytest.mark.long
def test_two_ranks_ask_a_server_as_one_does(
    server: ModelServer, asked: Asked, tmp_path: Path
) -> None:
    alone = job_of(server, asked, tmp_path / "alone")
    run_job(alone, print)
    shared = alone.model_copy(update={"output_folder": tmp_path / "shared"})
    assert on_ranks(2, tmp_path / "meeting", run_job, shared, print) == [None, None]
    assert tables(shared) == tables(alone)
    files = [path.name[0] for path in shared.output_folder.glob("answers/*/*.jsonl")]
    assert sorted(files) == ["0", "0", "1", "1"]
    elsewhere = only_served(shared, tmp_path / "elsewhere")
    gone = {"served": elsewhere.variants["served"].model_copy(update={"url": "http://127.0.0.1:1"})}
    jobs = [elsewhere, elsewhere.model_copy(update={"variants": gone})]
    ended = on_ranks(2, tmp_path / "meeting", _run_own, jobs)
    assert ended[0] == ended[1] and ended[0] and "does not answer" in ended[0]


def _run_own(jobs: list[JobConfig]) -> None:
    run_job(jobs[int(os.environ["LOCAL_RANK"])], print)


@pytest.mark.slow
def test_a_killed_evaluation_of_a_server_ends_in_the_same_table(
    server: ModelServer, asked: Asked, tmp_path: Path
) -> None:
    job = job_of(server, asked, tmp_path, benchmarks=("icl", "flipped"))
    whole = only_served(job, tmp_path / "whole")
    run_job(whole, print)
    server.delay = 0.1
    job = only_served(whole, tmp_path / "killed")
    job.output_folder.mkdir()
    file = job.output_folder / "job.json"
    file.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "symtune_pipeline.evaluation", "--config", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not kept(job):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not tables(job)
    server.delay = 0.0
    run_job(job, print)
    assert tables(job) == tables(whole)
    assert sorted(kept(job)) == sorted(kept(whole))
