"""One evaluation by every launcher: the same tables, and what becomes of dead ranks and of interrupts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import dagster as dg
import polars as pl
import psutil
import pytest
from conftest import DataSide, Ended, Home
from dagster_aws.s3 import S3Resource
from evaluation_jobs import Asked, kept, save_model_that_reads, tables
from graph import Here, materialise
from launching import descendants, launch, until

from resources.bucket_store import BucketStoreResource
from resources.launcher import TorchrunLauncher
from symtune_pipeline.evaluation.config import JobConfig
from symtune_pipeline.evaluation.job import run_job
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.jobs.job import Job
from symtune_pipeline.store.bucket import Bucket
from symtune_pipeline.store.folder import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def long_job(
    evaluation_examples: pl.DataFrame, symbols: pl.DataFrame, tokenizer: Any, tmp_path: Path
) -> JobConfig:
    """A job of a minute or more, since many variants are asked."""
    asked = Asked.written(tmp_path, evaluation_examples, symbols)
    model = save_model_that_reads(tmp_path / "model", "llama", tokenizer)
    models = {f"variant{number}": model for number in range(50)}
    return asked.job(tmp_path / "job", "classification", models)


def in_a_thread(when: Callable[[], bool], act: Callable[[], None]) -> Thread:
    def run() -> None:
        until(when)
        act()

    thread = Thread(target=run)
    thread.start()
    return thread


def at_work(job: JobConfig) -> bool:
    return len(kept(job)) > 2


def kill_one(of: str) -> None:
    """Kill the youngest of the processes that this test has started whose command holds a text."""
    os.kill(max(descendants(os.getpid(), of)), signal.SIGKILL)


@pytest.mark.parametrize(
    ("settings", "assets"),
    [
        ("kind: torchrun\nprocesses: 2\n", ("eval_icl", "eval_algorithmic")),
        pytest.param(  # one of which is killed
            "kind: ray\nworkers: 2\n", ("eval_icl",), marks=pytest.mark.long
        ),
    ],
)
def test_every_launcher_makes_the_tables_of_a_local_process(
    settings: str,
    assets: tuple[str, ...],
    smoke_run: tuple[Home, Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = smoke_run[0].store
    store = smoke_run[0].copy(tmp_path / "copy").store
    for name in assets:
        shutil.rmtree(store.root / name)
        shutil.rmtree(store.root / f"predictions_{name}")
    (tmp_path / "launcher.yaml").write_text(settings)
    monkeypatch.setenv("SYMTUNE_LAUNCHER", str(tmp_path / "launcher.yaml"))
    if "ray" in settings:
        answers = store.root / "work"
        in_a_thread(lambda: any(answers.rglob("*.jsonl")), lambda: kill_one("RayTrainWorker"))
    result = materialise(load_experiment("smoke"), store.root, assets, "micro")
    assert result.success
    for name in assets:
        assert store.manifest(name, "micro") == local.manifest(name, "micro"), name
        assert not list((store.root / "work" / name).iterdir())


class Looking(Here):
    """Lists what the bucket keeps of a job at its end."""

    found: ClassVar[list[str]] = []

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher."""
        result = super().run(context, job)
        self.found.extend(Bucket(job.checkpoint_url or "").keys())
        return result


def test_a_bucket_keeps_the_answers_until_their_table_is_there(
    data_side: DataSide, tokenizer: Any, s3: str, tmp_path: Path
) -> None:
    shutil.copytree(data_side.store.root, tmp_path / "smoke")
    model = save_model_that_reads(tmp_path / "model", "llama", tokenizer)
    for key in ("base_model", "symbol_tuned_model"):
        with Store(tmp_path / "smoke").writing(key, "micro") as folder:
            shutil.copytree(model, folder, dirs_exist_ok=True)
    bucket = Bucket(f"{s3}/{tmp_path.name}")
    bucket.upload_folder(tmp_path / "smoke", "smoke")
    cache = tmp_path / "cache"
    store = BucketStoreResource(root=str(cache), url=bucket.url("smoke"), s3=S3Resource())
    made = materialise(load_experiment("smoke"), cache, ["eval_icl"], "micro", Looking(), store)
    assert made.success
    assert Looking.found
    assert bucket.keys("smoke/work") == [] == list((cache / "work" / "eval_icl").iterdir())
    assert store.artifacts.find("eval_icl", "micro")


def test_a_dead_rank_is_a_lost_job_that_goes_on_where_it_was(long_job: JobConfig) -> None:
    # The ranks' commands hold the package and no launcher's.
    ranks = "-u -m symtune_pipeline.evaluation"
    killer = in_a_thread(lambda: at_work(long_job), lambda: kill_one(ranks))
    error = launch(TorchrunLauncher(processes=2), long_job).error
    killer.join()
    assert error and "\n" not in error
    assert error.startswith(
        f"The evaluation job {long_job.output_folder} did not come to its end ("
    )
    assert error.endswith("starting it again goes on where it was.")

    before = kept(long_job)
    few = long_job.model_copy(update={"variants": dict(list(long_job.variants.items())[:2])})
    ended = launch(TorchrunLauncher(processes=2), few)
    assert ended.result == long_job.result_folder
    found = kept(few)
    assert set(before) <= set(found) and len(set(found)) == len(found)  # none was asked twice
    alone = few.model_copy(update={"output_folder": few.output_folder.parent / "alone"})
    run_job(alone, print)
    assert {name: tables(few)[name] for name in few.variants} == tables(alone)


def test_an_evaluation_that_is_stopped_ends_whole_and_is_not_taken_for_lost(
    long_job: JobConfig,
) -> None:
    stopped: list[int] = []

    def stop() -> None:
        stopped.extend(descendants(os.getpid(), str(long_job.output_folder / "job.json")))
        os.kill(min(stopped), signal.SIGTERM)

    stopper = in_a_thread(lambda: at_work(long_job), stop)
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        launch(TorchrunLauncher(processes=2), long_job)
    stopper.join()
    until(lambda: not [job for job in stopped if psutil.pid_exists(job)], seconds=30)


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_that_is_stopped_says_so(
    ending: signal.Signals, status: int, long_job: JobConfig
) -> None:
    path = long_job.output_folder.parent / "job.json"
    path.write_text(long_job.model_dump_json())
    command = [sys.executable, "-m", "symtune_pipeline.evaluation", "--config", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: at_work(long_job) or process.poll() is not None)
    process.send_signal(ending)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert said.splitlines() == [
        "The evaluation was interrupted; starting it again goes on where it was."
    ]
