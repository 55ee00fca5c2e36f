"""The assets raw_<dataset>: sets that cannot be had, and files that change."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.raw import raw_assets
from assets.sql import sql_assets
from resources.store import StoreResource
from symtune_pipeline.catalog.datasets import find_dataset
from symtune_pipeline.catalog.own import OwnDataset
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.sections import DataConfig, MixtureConfig
from symtune_pipeline.sources.mirror import Mirror

SETS = ("rt", "teo", "tei", "teab")
FRAME = pl.DataFrame({"text": ["dull", "fun", "odd", "new"], "label": [0, 1, 0, 1]})


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror with one of the sets, `rt`."""
    monkeypatch.setenv("SYMTUNE_MIRROR", str(tmp_path / "mirror"))
    made = Mirror(str(tmp_path / "mirror"))
    _add(made, "rt")
    return made


def _add(mirror: Mirror, key: str) -> None:
    hub = find_dataset(key).hub
    assert hub is not None
    for split in hub.splits:
        mirror.write(hub, split, FRAME)


def _experiment(missing: str) -> Experiment:
    data = DataConfig.model_validate({"source": "hub", "datasets": SETS, "missing": missing})
    return Experiment(name="test", models=("micro",), data=data, mixture=MixtureConfig(prompts=1))


class Graph:
    """The raw assets and the SQL of an experiment over a store in a folder."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.resource = StoreResource(root=str(folder / "store"))
        self.assets = [raw_assets(experiment), *sql_assets(experiment)]

    def run(self, *names: str) -> tuple[str | None, str]:
        """Materialise; the sentence of the failure if there is one, and the warnings."""
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                self.assets,
                selection=list(names),
                resources={"store": self.resource},
                instance=instance,
                raise_on_error=False,
            )
            log = [entry.user_message for entry in instance.all_logs(result.run_id)]
        failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
        told = [
            failure.user_failure_data.description
            for failure in failures
            if failure.user_failure_data
        ]
        assert len(told) == len(failures), failures
        return (told[0] if told else None), "\n".join(log)

    def rows(self, key: str) -> int:
        return len(self.resource.artifacts.read_table(key))


def test_all_missing_sets_are_in_one_sentence_and_the_others_are_kept(
    mirror: Mirror, tmp_path: Path
) -> None:
    graph = Graph(tmp_path, _experiment("error"))
    told, _ = graph.run(*(f"raw_{key}" for key in SETS))
    assert told is not None
    assert told.startswith(
        "Of 4 datasets 3 cannot be had: teo, tei, teab (the first: The mirror lacks "
    )
    assert "offensive/train.parquet)" in told
    assert "data.missing" in told
    assert "\n" not in told and told.endswith(".")
    assert graph.rows("raw_rt") == 4
    assert graph.resource.artifacts.find("raw_teo", None) is None


def test_what_may_be_left_out_is_an_empty_table_that_the_sql_takes(
    mirror: Mirror, tmp_path: Path
) -> None:
    graph = Graph(tmp_path, _experiment("leave_out"))
    told, log = graph.run(*(f"raw_{key}" for key in SETS), "stg_examples", "int_examples",
                          "int_tuning_examples", "int_evaluation_examples", "int_set_statistics")  # fmt: skip
    assert told is None
    assert log.count("Of 4 datasets 3 cannot be had: teo, tei, teab") == 1
    assert graph.rows("raw_teo") == 0
    statistics = graph.resource.artifacts.read_table("int_set_statistics")
    assert dict(statistics.select("dataset", "raw").iter_rows()) == dict.fromkeys(SETS, 0) | {
        "rt": 4
    }
    assert graph.resource.artifacts.read_table("int_tuning_examples")[
        "dataset"
    ].unique().to_list() == ["rt"]


def test_the_papers_experiment_names_the_sets_that_a_mirror_lacks(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_MIRROR", str(shared_data / "hub_mirror"))
    paper = load_experiment("paper")
    graph = Graph(tmp_path, paper)
    keys = [entry.key for entry in paper.datasets()]
    told, log = graph.run(*(f"raw_{key}" for key in keys))
    assert told is None
    there = [key for key in keys if graph.rows(f"raw_{key}")]
    gone = [key for key in keys if key not in there]
    assert sorted(there) == sorted(load_experiment("mirror").data.datasets)
    assert f"Of 33 datasets 16 cannot be had: {', '.join(gone)} (the first" in log


def test_a_set_that_was_left_out_is_loaded_once_it_is_there(mirror: Mirror, tmp_path: Path) -> None:
    graph = Graph(tmp_path, _experiment("leave_out"))
    graph.run("raw_rt", "raw_teo")
    _add(mirror, "teo")
    assert graph.run("raw_rt", "raw_teo")[0] is None
    assert graph.rows("raw_teo") == 4


def test_where_no_set_is_left_it_is_an_error(mirror: Mirror, tmp_path: Path) -> None:
    told, _ = Graph(tmp_path, _experiment("leave_out")).run("raw_teo", "raw_tei")
    assert told is not None
    assert told.startswith("Of 2 datasets 2 cannot be had: teo, tei")


def test_a_set_is_made_again_when_its_file_in_the_mirror_changed(
    mirror: Mirror, tmp_path: Path
) -> None:
    graph = Graph(tmp_path, _experiment("error"))
    assert "raw_rt: 4 rows, made" in graph.run("raw_rt")[1]
    assert "raw_rt: up to date" in graph.run("raw_rt")[1]
    _add(mirror, "rt")  # the same content at another time
    assert "raw_rt: 4 rows, made" in graph.run("raw_rt")[1]


def _with_own(**files: Path) -> Experiment:
    described = OwnDataset.model_validate(
        {
            "role": "tuning",
            "files": files,
            "columns": ["text"],
            "label_column": "stars",
            "labels": {1: "bad", 5: "good"},
            "instruction": "Good or bad?",
        }
    )
    data = DataConfig(own={"reviews": described})
    return Experiment(name="test", models=("micro",), data=data, mixture=MixtureConfig(prompts=1))


def test_a_set_is_the_same_by_whichever_path_its_own_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, text in (("a", "fun"), ("b", "amusing")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.csv").write_text(f"text,stars\n{text},5\ndull,1\n")
    a, b = tmp_path / "a" / "mine.csv", tmp_path / "b" / "mine.csv"
    monkeypatch.chdir(tmp_path)
    assert "raw_reviews: 2 rows, made" in Graph(tmp_path, _with_own(train=a)).run("raw_reviews")[1]
    again = Graph(tmp_path, _with_own(train=Path("a/mine.csv")))
    assert "raw_reviews: up to date" in again.run("raw_reviews")[1]

    for files in ({"train": a, "test": b}, {"test": a, "train": b}):
        told = Graph(tmp_path, _with_own(**files)).run("raw_reviews")[1]
        assert "raw_reviews: 4 rows, made" in told, "files that change places are other data"


def test_a_set_is_made_again_when_its_own_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("text,stars\ndull,1\nfun,5\n")
    graph = Graph(tmp_path, _with_own(train=path))
    assert "raw_reviews: 2 rows, made" in graph.run("raw_reviews")[1]
    assert "raw_reviews: up to date" in graph.run("raw_reviews")[1]
    path.write_text("text,stars\ndull,1\nfun,5\nnew,5\n")
    assert "raw_reviews: 3 rows, made" in graph.run("raw_reviews")[1]
    os.remove(path)
    told, _ = graph.run("raw_reviews")
    assert told is not None and "mine.csv cannot be read" in told
