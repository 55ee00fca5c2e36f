"""What the launcher makes of a job's lines and of how the job ends."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from models import tiny_job

from resources.launcher import LocalLauncher
from symtune_pipeline.errors import UserError


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Every process that is started, so that a test can kill it or see it ended."""
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


def test_the_lines_of_a_job_are_passed_on_and_its_result_is_returned(tmp_path: Path) -> None:
    lines: list[str] = []
    config = tiny_job(tmp_path)
    result = LocalLauncher().run(config, lines.append)
    assert (result / "model.safetensors").is_file()
    assert lines[-1].startswith("tuning: 100% of ")
    assert lines[-1] == lines[-1].rstrip()


def test_the_sentence_of_a_job_becomes_a_user_error(tmp_path: Path) -> None:
    lines: list[str] = []
    config = tiny_job(tmp_path, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(UserError, match=r"^Tuning stopped at step .* lower tuning\.learning_rate"):
        LocalLauncher().run(config, lines.append)
    assert lines


def test_a_killed_job_is_a_user_error_that_names_the_way_out(
    tmp_path: Path, jobs: list[subprocess.Popen[str]]
) -> None:
    config = interrupted_job(tmp_path)
    with pytest.raises(
        UserError, match=r"ended with status -9; .* goes on from the last checkpoint"
    ):
        LocalLauncher().run(config, lambda _: jobs[-1].kill())


def test_no_job_outlives_an_interrupted_launcher(
    tmp_path: Path, jobs: list[subprocess.Popen[str]]
) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    config = interrupted_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        LocalLauncher().run(config, interrupt)
    assert jobs[-1].returncode is not None
    assert not (config.output_folder / "model").exists()


def interrupted_job(tmp_path: Path) -> Any:
    """A long job with a checkpoint: it says at once that it goes on, and then works for a while."""
    import torch

    from symtune_pipeline.attention import load_model
    from symtune_pipeline.tuning.checkpoint import Checkpoints, State
    from symtune_pipeline.tuning.job import make_optimizer

    config = tiny_job(tmp_path, epochs=500)
    model = load_model(config.model_folder, torch.float32, "cpu")
    checkpoints = Checkpoints(config.output_folder / "checkpoints", 2, print)
    checkpoints.save(model, make_optimizer(model, config), State(config.fingerprint()))
    checkpoints.wait()
    return config
