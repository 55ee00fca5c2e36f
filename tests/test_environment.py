"""Where things lie comes from variables, and a wrong one is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from symtune_pipeline.environment import home_folder, home_url, mirror_folder
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import EXPERIMENTS


def test_folders_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMTUNE_MIRROR", raising=False)
    monkeypatch.delenv("SYMTUNE_HOME", raising=False)
    assert mirror_folder() is None
    assert home_folder() == EXPERIMENTS.parent / ".symtune"
    monkeypatch.setenv("SYMTUNE_MIRROR", str(tmp_path))
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path))
    assert mirror_folder() == str(tmp_path)
    assert home_folder() == tmp_path
    assert home_url() is None
    monkeypatch.setenv("SYMTUNE_HOME", "s3://bucket/mine/")
    monkeypatch.setenv("SYMTUNE_CACHE", str(tmp_path))
    assert home_url() == "s3://bucket/mine"
    assert home_folder() == tmp_path / "bucket" / "mine"
    monkeypatch.setenv("SYMTUNE_HOME", "gs://bucket/mine")
    with pytest.raises(UserError, match="correct SYMTUNE_HOME"):
        home_folder()
