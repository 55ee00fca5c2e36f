"""Jobs on a real SLURM: the same results, and what becomes of those that somebody ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import polars as pl
import pytest
from conftest import ROOT
from evaluation_jobs import Asked, save_model_that_reads, tables
from launching import Launched, launch, until
from slurm_cluster import missing_programs, slurm_cluster
from tiny_models import tiny_job

from resources.launcher import SlurmLauncher, load_launcher
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.job import run_job as evaluate
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job as tune

LAUNCH = """
import sys
from launching import launch
from resources.launcher import SlurmLauncher
from symtune_pipeline.tuning.config import JobConfig

launch(SlurmLauncher(gpus_per_node=0), JobConfig.model_validate_json(open(sys.argv[1]).read()))
"""
HERE = SlurmLauncher(gpus_per_node=0, time="0:10:00", directives={"comment": "a test"})


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    if missing := missing_programs():
        pytest.skip(f"needs SLURM, of which {', '.join(missing)} is absent: slurm-wlm and munge")
    with slurm_cluster() as conf:
        yield conf


@pytest.fixture
def slurm(running: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A command of SLURM's, whose answer is given as words."""
    monkeypatch.setenv("SLURM_CONF", str(running))

    def ask(*command: str) -> list[str]:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    return ask


def queued(slurm: Callable[..., list[str]], states: str = "PENDING,RUNNING") -> list[str]:
    return slurm("squeue", "--noheader", f"--states={states}", "--sort=i", "--format=%A")


def at_work(config: JobConfig) -> bool:
    return any((config.output_folder / "checkpoints").glob("step-*/state.json"))


def weights(result: Path | None) -> bytes:
    assert result
    return (result / "model.safetensors").read_bytes()


def lines_with(ended: Launched, *texts: str) -> list[str]:
    """The lines of the log that hold all of some texts."""
    return [line for line in ended.lines if all(text in line for text in texts)]


@dataclass(frozen=True)
class Elsewhere:
    process: subprocess.Popen[bytes]
    config: JobConfig
    number: str  # of SLURM's job
    log: Path


@pytest.mark.slow
def test_machines_that_share_a_fine_tune_make_the_losses_of_one(
    slurm: Callable[..., list[str]], tmp_path: Path
) -> None:
    config = tiny_job(tmp_path)
    ended = launch(HERE.model_copy(update={"nodes": 2, "gpus_per_node": 1}), config)
    here = config.model_copy(update={"output_folder": tmp_path / "here"})
    alone = Launched(tune(here, print), None, []).losses()
    assert ended.losses() == pytest.approx(alone, rel=1e-4)
    assert lines_with(ended, "running on one,two")


@pytest.mark.slow
def test_the_sentence_of_a_job_on_two_machines_becomes_a_user_error(
    slurm: Callable[..., list[str]], tmp_path: Path
) -> None:
    config = tiny_job(tmp_path, learning_rate=1e30, warmup_steps=0)
    error = launch(HERE.model_copy(update={"nodes": 2}), config).error
    assert error and error.startswith("Tuning stopped ")
    assert "lower tuning.learning_rate" in error


@pytest.mark.slow
def test_an_evaluation_makes_the_tables_of_a_local_one(
    slurm: Callable[..., list[str]],
    evaluation_examples: pl.DataFrame,
    symbols: pl.DataFrame,
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    asked = Asked.written(tmp_path, evaluation_examples, symbols)
    model = save_model_that_reads(tmp_path / "model", "llama", tokenizer)
    job = asked.job(tmp_path / "job", "classification", {"one": model})
    here = job.model_copy(update={"output_folder": tmp_path / "here"})
    # Of the run's environment only what is named: the job still speaks with its launcher.
    few = {"export": "PATH,HOME,PYTHONPATH,SLURM_CONF"}
    two_ranks = HERE.model_copy(update={"gpus_per_node": 2, "directives": few})
    assert launch(two_ranks, job).result == job.result_folder
    evaluate(here, print)
    assert tables(job) == tables(here)


@pytest.mark.slow
def test_a_job_that_slurm_ends_goes_on_and_makes_the_weights_of_a_local_one(
    slurm: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Another job preempts it, so it is submitted again; the administrator ends that one."""
    config = tiny_job(tmp_path, epochs=15)

    def disturb() -> None:
        until(lambda: at_work(config))
        (first,) = queued(slurm)
        all_of_it = ("--partition=urgent", "--nodes=2", "--exclusive")
        slurm("sbatch", *all_of_it, "--output=/dev/null", "--wrap=sleep 4")
        until(lambda: [each for each in queued(slurm, "RUNNING") if int(each) > int(first) + 1])
        slurm("scancel", queued(slurm)[-1])

    other = Thread(target=disturb)
    other.start()
    lost = launch(HERE.model_copy(update={"max_failures": 1}), config)
    other.join()
    assert lines_with(lost, "SLURM job ", ": submitted, and what it prints is in ")
    assert lines_with(lost, "running on one, until 20")
    assert lines_with(lost, " ended as PREEMPTED", "It is submitted again.")
    assert lines_with(lost, "number 1 of 1 by priority that wait for partition common")
    assert lost.error and "\n" not in lost.error
    about = f"The fine-tune job {config.output_folder} did not come to its end (SLURM job "
    assert lost.error.startswith(about) and " ended as CANCELLED" in lost.error
    assert lost.error.endswith("starting it again goes on from the last checkpoint.")

    ended = launch(HERE, config)
    assert lines_with(ended, "from step ")
    assert lines_with(ended, "tuning: 100% of ")
    here = config.model_copy(update={"output_folder": tmp_path / "here", "checkpoint_seconds": 600})
    assert weights(ended.result) == weights(tune(here, print))
    assert queued(slurm) == []


@pytest.fixture
def run_elsewhere(slurm: Callable[..., list[str]], tmp_path: Path) -> Iterator[Elsewhere]:
    """A process that runs a long job through the launcher; the job is at work."""
    config = tiny_job(tmp_path, epochs=500)
    path = tmp_path / "job.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", LAUNCH, str(path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
    try:
        until(lambda: at_work(config))
        (number,) = queued(slurm)
        yield Elsewhere(process, config, number, tmp_path / "log")
    finally:
        process.kill()


@pytest.mark.slow
def test_a_job_that_runs_out_of_time_is_submitted_again_and_one_that_is_left_behind_is_cancelled(
    slurm: Callable[..., list[str]], run_elsewhere: Elsewhere
) -> None:
    slurm("scontrol", "update", f"JobId={run_elsewhere.number}", "EndTime=now+1")
    until(lambda: "from step " in run_elsewhere.log.read_text(), seconds=120)
    assert " ended as TIMEOUT, reason TimeLimit" in run_elsewhere.log.read_text()

    run_elsewhere.process.kill()
    run_elsewhere.process.wait()
    (left,) = queued(slurm)
    refused = HERE.model_copy(update={"partition": "nowhere"})
    assert launch(refused, run_elsewhere.config).error
    until(lambda: left in queued(slurm, "CANCELLED"), seconds=30)


@pytest.mark.slow
def test_a_run_that_is_interrupted_cancels_its_job(
    slurm: Callable[..., list[str]], run_elsewhere: Elsewhere
) -> None:
    run_elsewhere.process.send_signal(signal.SIGINT)
    run_elsewhere.process.wait(60)
    until(lambda: run_elsewhere.number in queued(slurm, "CANCELLED"), seconds=30)
    assert queued(slurm) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere; "),
        ({"directives": {"colour": "red"}}, "unrecognized option '--colour=red'; "),
        ({"gpus_per_node": 4}, "Requested node configuration is not available); "),
    ],
)
def test_a_refused_submission_is_what_sbatch_says(
    settings: dict[str, Any], said: str, slurm: Callable[..., list[str]], tmp_path: Path
) -> None:
    error = launch(SlurmLauncher(**{"gpus_per_node": 0, **settings}), tiny_job(tmp_path)).error
    assert error and "\n" not in error
    assert error.startswith("SLURM does not take the job (") and said in error
    assert "correct the launcher file" in error


def test_without_slurm_the_launcher_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = launch(SlurmLauncher(), tiny_job(tmp_path)).error
    assert error and error.startswith("The SLURM launcher needs the commands sbatch, squeue, ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("partition: a b", "setting 'partition': .*one word"),
        ("time: a day", "setting 'time.*': "),
        ("directives: {Mem: 1}", "setting 'directives': .*'Mem' is no option of sbatch"),
        ("directives: {'mem=1 --wrap': x}", "setting 'directives': .*is no option of sbatch"),
        (
            "directives: {time: 10}",
            "setting 'directives': .*'time' is set by the launcher, or is a",
        ),
        ("directives: {array: 1-3}", "setting 'directives': .*'array' is set by the launcher"),
        ('directives: {qos: "a\\nb"}', "setting 'directives': .*value of 'qos' .*one line"),
        ("directives: {exclusive: false}", "setting 'directives': .*'exclusive' .*or true"),
        (
            "gpu_per_node: 2",
            r"setting 'gpu_per_node': unknown setting \(did you mean 'gpus_per_node'\?\)",
        ),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"kind: slurm\n{text}\n")
    with pytest.raises(UserError, match=rf"^Launcher file \S*mine\.yaml, {told}") as error:
        load_launcher(str(path))
    assert "\n" not in str(error.value)
