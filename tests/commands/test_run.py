"""`symtune run`: what it makes, from where it may be started, and what it refuses before it starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dagster as dg
import pytest
from conftest import SYMTUNE, Home
from typer.testing import CliRunner

from symtune_pipeline.commands import run
from symtune_pipeline.commands.app import app
from symtune_pipeline.errors import UserError


def test_settings_are_changed_for_a_run_that_is_started_anywhere(tmp_path: Path) -> None:
    home = Home(tmp_path)
    shadow = tmp_path / "elsewhere" / "assets"  # a folder of the user's with the name of ours
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise SystemExit('not this one')")
    options = ["--set", "data.train_rows=24", "--set", "data.test_rows=12", "--experiment", "smoke"]
    ended = subprocess.run(
        [SYMTUNE, "run", "--select", "raw_trades", *options],
        cwd=shadow.parent, env=home.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert len(home.store.read_table("raw_trades")) == 24 + 12
    with dg.DagsterInstance.from_config(str(home.history)) as instance:
        (made,) = instance.get_runs()
    assert made.tags["set"] == "data.train_rows=24 data.test_rows=12"
    assert made.tags["experiment"] == "smoke"
    assert made.remote_job_origin, "without it the run is on no timeline of the UI"
    assert made.remote_job_origin.location_name == "symtune_pipeline"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "smol"], "There is no model 'smol' in the catalogue; choose one of "),
        (
            ["--model", "smollm2-135m"],
            "'smoke' has no model 'smollm2-135m'; choose one of micro, or ",
        ),
        (["--experiment", "smoky"], "Experiment file "),
        (["--set", "seed"], "Option --set takes a setting and its value, such as tuning.learning"),
        (["--set", "tuning..x=1"], "Option --set takes a setting and its value, such as "),
        (
            ["--set", "tuning.learning_rte=1"],
            "smoke.yaml with --set tuning.learning_rte=1, setting 'tuning.learning_rte': unknown"
            " setting (did you mean 'learning_rate'?); docs",
        ),
        (["--set", "models=[a"], "Option --set models is not valid YAML: "),
        (["--set", "data=5"], "smoke.yaml with --set data=5, setting 'data': "),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, ["run", *arguments], catch_exceptions=False)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "home").exists()


def test_without_the_graph_beside_the_library_there_is_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "CHECKOUT", tmp_path)
    with pytest.raises(UserError, match="clone the repository, run `make setup` in it"):
        CliRunner().invoke(app, ["run"], catch_exceptions=False)
