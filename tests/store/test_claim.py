"""A folder of results belongs to one experiment file; another of the same name is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from resources import resources_of
from resources.store import StoreResource
from symtune_pipeline.commands.app import app
from symtune_pipeline.commands.common import store_of
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.store.bucket import Bucket, BucketStore
from symtune_pipeline.store.claim import CLAIM, Owner, check_owner, claim

SMOKE = ROOT / "experiments" / "smoke.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine keeps its results, in a folder of it."""
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    return tmp_path


def experiment(folder: Path, more: str = "", name: str = "mine") -> Experiment:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(SMOKE.read_text(encoding="utf-8") + more, encoding="utf-8")
    return load_experiment(str(file))


def owner(of: Experiment) -> Owner:
    assert of.owner
    return of.owner


def run(of: Experiment) -> None:
    """What a run does before it writes, by the resource that the graph has."""
    resource = resources_of(of)["store"]
    assert isinstance(resource, StoreResource)
    claim(resource.artifacts, Owner(**resource.owner))


def test_two_files_of_one_name_have_no_results_in_common(home: Path) -> None:
    first, second = experiment(home / "a"), experiment(home / "b")
    run(first)
    run(first)
    for attempt in (lambda: run(second), lambda: store_of(second)):
        with pytest.raises(UserError) as error:
            attempt()
        sentence = str(error.value)
        assert (
            str(home / "a" / "mine.yaml") in sentence and str(home / "b" / "mine.yaml") in sentence
        )
        assert "set `name:`" in sentence and "\n" not in sentence
    assert store_of(first).read_text(CLAIM)
    run(experiment(home / "b", "name: other\n"))
    run(first)


def test_a_changed_file_keeps_its_results(home: Path) -> None:
    run(experiment(home / "a"))
    run(experiment(home / "a", "seed: 3\n"))


def test_a_file_that_was_moved_keeps_its_results_and_a_changed_one_is_asked_to_say_so(
    home: Path,
) -> None:
    run(experiment(home / "a"))
    shutil.move(home / "a", home / "b")
    run(load_experiment(str(home / "b" / "mine.yaml")))
    shutil.rmtree(home / "b")
    changed = experiment(home / "c", "seed: 3\n")
    with pytest.raises(UserError, match=r"which is not there any more.* remove .*experiment\.json"):
        run(changed)
    (home / "home" / "mine" / CLAIM).unlink()
    run(changed)


def test_shipped_experiments_are_known_by_name_wherever_the_checkout_is(home: Path) -> None:
    shipped = load_experiment("smoke")
    run(shipped)
    assert owner(shipped).file == "experiments/smoke.yaml"
    assert owner(load_experiment(str(SMOKE))) == owner(shipped)
    for file in (ROOT / "experiments").rglob("*.yaml"):  # those in folders, too
        assert owner(load_experiment(str(file))).file == file.relative_to(ROOT).as_posix()
    updated = Owner(owner(shipped).file, "0" * 64)
    claim(store_of(shipped), updated)  # by another version of this project
    check_owner(store_of(shipped), owner(shipped))
    with pytest.raises(UserError, match=r"those of experiment experiments/smoke\.yaml, and /"):
        store_of(experiment(home / "a", name="smoke"))


def test_a_bucket_is_claimed_for_all_machines(s3: str, tmp_path: Path) -> None:
    here, there = (
        BucketStore(tmp_path / cache, Bucket(f"{s3}/{tmp_path.name}"))
        for cache in ("here", "there")
    )
    claim(here, Owner("/of/another/machine/mine.yaml", "a"))
    claim(there, Owner(str(tmp_path / "mine.yaml"), "a"))
    with pytest.raises(UserError, match="has the same name"):
        check_owner(here, Owner(str(tmp_path / "mine.yaml") + "2", "b"))


def test_no_command_shows_the_results_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")
    run(experiment(tmp_path / "a"))
    experiment(tmp_path / "b")
    other = str(tmp_path / "b" / "mine.yaml")
    for command in (["report"], ["query", "SHOW TABLES"], ["show", "table", "x"], ["run"]):
        with pytest.raises(UserError, match="has the same name"):
            CliRunner().invoke(app, [*command, "--experiment", other], catch_exceptions=False)
