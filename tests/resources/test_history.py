"""Each experiment has a history of its own, and every run is one of the code location that the UI shows."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml
from conftest import ROOT

from resources.history import LOCATION


@dg.asset
def figure() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"accuracy": 0.5})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Dagster's settings, as those of every experiment of a checkout."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", tmp_path)
    return tmp_path


def test_an_experiment_sees_no_other_ones_runs_and_numbers(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    with dg.DagsterInstance.get() as instance:
        assert dg.materialize([figure], instance=instance).success
        (run,) = instance.get_runs()
    assert run.remote_job_origin and run.remote_job_origin.location_name == LOCATION
    assert run.is_success

    mine = home / "a folder" / "mine.yaml"
    mine.parent.mkdir()
    shipped = (ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8")
    mine.write_text(f"{shipped}\nname: another one\n", encoding="utf-8")
    for other in ("quickstart", str(mine), "no_such_experiment"):
        monkeypatch.setenv("SYMTUNE_EXPERIMENT", other)
        with dg.DagsterInstance.get() as instance:
            assert instance.get_runs() == []
            assert instance.get_latest_materialization_event(figure.key) is None
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_latest_materialization_event(figure.key)
    assert {path.name for path in (home / "experiments").iterdir()} == {
        *("smoke", "quickstart", "another one", "unreadable")
    }


def test_the_code_location_has_one_name() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["dg"]["project"]["code_location_name"] == LOCATION
    for name in ("workspace.yaml", "deploy/workspace.yaml"):
        (served,) = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["load_from"]
        (target,) = served.values()
        assert target["location_name"] == LOCATION
