"""The curves of a fine-tune, where Weights & Biases cannot be reached or is set up wrongly."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
from conftest import Ended, Home

from resources.tracker import WandbTracker

KEY = "0123456789" * 4
LOG = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "symbol_accuracy/rte": 0.5}]


def _warnings(tracker: WandbTracker) -> list[str]:
    """What is said of a job; each is one sentence."""
    warnings: list[str] = []
    tracker.log_job("run", LOG, {"rate": 1}, warnings.append)
    assert all(line.endswith(".") and "\n" not in line for line in warnings)
    return warnings


def test_an_unreachable_server_is_one_warning_and_the_curves_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    warnings: list[str] = []
    WandbTracker(folder=str(tmp_path), patience=2).log_job("run", LOG, {"rate": 1}, warnings.append)
    [warning] = warnings
    assert str(tmp_path) in warning and "wandb sync" in warning
    [kept] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"loss" in kept.read_bytes()
    assert b"symbol_accuracy/rte" in kept.read_bytes()
    printed = "".join(capfd.readouterr())
    assert KEY not in printed and "127.0.0.1" not in printed


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("WANDB_BASE_URL", "localhost:9", "WANDB_BASE_URL: URL scheme should be 'http'"),
        ("WANDB_BASE_URL", "127.0.0.1:9", "WANDB_BASE_URL: Input should be a valid URL"),
        ("WANDB_MODE", "off", "WANDB_MODE: Input should be 'online', 'offline'"),
        ("WANDB_RESUME", "maybe", "WANDB_RESUME: Input should be"),
        ("WANDB_API_KEY", f"{KEY}\n", "API key cannot"),
        ("WANDB_RUN_ID", "a/b", "Run ID cannot contain"),
    ],
)
def test_a_wrong_setting_is_one_warning(
    variable: str, value: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv(variable, value)
    [warning] = _warnings(WandbTracker(folder=str(tmp_path), patience=2))
    assert says in warning and ":9" not in warning and KEY not in warning


@pytest.mark.parametrize("project", ["mine/ours", "a:b", "x" * 200])
def test_a_wrong_project_is_one_warning(
    project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    [warning] = _warnings(WandbTracker(folder=str(tmp_path), project=project))
    assert "Invalid project name" in warning


@pytest.mark.parametrize("key", ["short", f"{KEY} two words", "ключ"])
def test_a_bad_key_is_one_warning_and_the_curves_are_kept(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    [warning] = _warnings(WandbTracker(folder=str(tmp_path), patience=2))
    assert "wandb sync" in warning and key.strip() not in warning
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [warning] = _warnings(WandbTracker(folder=str(tmp_path / "file" / "below")))
    assert "Not a directory" in warning


def test_an_interrupt_still_interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes a call and never answers
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        calls = Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT))
        calls.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                WandbTracker(folder=str(tmp_path), patience=4).log_job("run", LOG, {}, print)
        finally:
            calls.cancel()


class Interrupting(list[dict[str, float]]):
    """A log at whose second row somebody presses Ctrl-C."""

    def __iter__(self) -> Iterator[dict[str, float]]:
        yield self[0]
        os.kill(os.getpid(), signal.SIGINT)
        yield self[1]


def test_an_interrupt_while_curves_are_written_prints_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    log = Interrupting([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}])
    with pytest.raises(KeyboardInterrupt):
        WandbTracker(folder=str(tmp_path)).log_job("run", log, {}, print)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_a_model_is_published_whatever_is_wrong_with_the_curves(
    smoke_run: tuple[Home, Ended], tmp_path: Path
) -> None:
    home = smoke_run[0].copy(tmp_path / "copy")
    shutil.rmtree(home.store.root / "symbol_tuned_model")
    ended = home.run("--select", "key:symbol_tuned_model", WANDB_MODE="off")
    assert ended.returncode == 0, ended.stderr
    assert "Weights & Biases cannot be used (WANDB_MODE: " in ended.stdout + ended.stderr
    assert home.store.folder("symbol_tuned_model", "micro")


def test_without_a_key_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    warnings: list[str] = []
    WandbTracker(folder=str(tmp_path)).log_job("run", LOG, {}, warnings.append)
    assert not warnings
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
