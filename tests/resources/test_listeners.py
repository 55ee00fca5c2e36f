"""Nothing that is started listens beyond this machine: the sockets of all of it, while it runs.

Those of `dg dev` and `dagster dev` are in tests/test_readme.py, of the daemon and its runs in
tests/assets/test_automation.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import Ended, Home
from launching import launch
from sockets import HERE, Watch
from tiny_models import tiny_job

from resources.launcher import LocalLauncher, RayLauncher, TorchrunLauncher


@pytest.mark.parametrize(
    "launcher",
    [
        LocalLauncher(),
        TorchrunLauncher(processes=2),
        pytest.param(RayLauncher(workers=2), marks=pytest.mark.slow),
    ],
    ids=lambda launcher: launcher.kind,
)
def test_no_launcher_listens_beyond_this_machine(
    launcher: LocalLauncher | TorchrunLauncher | RayLauncher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if launcher.kind != "ray":  # whose sockets would have too long a name
        monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Watch(os.getpid(), 0.05) as watch:
        assert launch(launcher, tiny_job(tmp_path, epochs=2)).result
    assert launcher.kind == "local" or watch.found, "ranks speak with each other"
    assert watch.beyond == []
    assert not list(tmp_path.glob("symtune-ranks-*"))


def test_a_whole_run_listens_on_this_machine_only(smoke_run: tuple[Home, Ended]) -> None:
    """Its jobs and what else it starts, as Weights & Biases does."""
    home, _ = smoke_run
    found = json.loads((home.folder / "sockets.json").read_text())
    assert [each for each in found if each[0] not in HERE] == []
