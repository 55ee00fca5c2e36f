"""The curves of a fine-tune, where Weights & Biases cannot be reached."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from resources.tracker import WandbTracker

KEY = "0123456789" * 4
LOG = pl.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]})


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
    printed = "".join(capfd.readouterr())
    assert KEY not in printed and "127.0.0.1" not in printed


def test_without_a_key_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    warnings: list[str] = []
    WandbTracker(folder=str(tmp_path)).log_job("run", LOG, {}, warnings.append)
    assert not warnings
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
