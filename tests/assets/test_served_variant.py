"""A served model in the graph: a variant like any other, from its answers to the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from conftest import DataSide
from graph import materialise
from model_server import NAME, ModelServer
from tiny_models import save_reading_model

from resources.launcher import Launcher
from symtune_pipeline.evaluation.config import JobConfig
from symtune_pipeline.evaluation.job import run_job
from symtune_pipeline.evaluation.predictions import packages
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.jobs.job import Job
from symtune_pipeline.sections import EndpointConfig
from symtune_pipeline.store.folder import Store

pytestmark = pytest.mark.slow

MODEL, SERVED = "micro", "on_a_server"
RAN = f"packed, fp32 on cpu, {', '.join(packages())}"
ANSWERS = ["eval_icl", "eval_flipped", "eval_algorithmic", "eval_language"]
FIGURES = {
    "mart_icl": ["setting", "dataset"],
    "mart_flipped": ["setting"],
    "mart_algorithmic": ["benchmark", "setting", "category"],
    "mart_summary": ["benchmark", "setting"],
    "mart_calibrated": ["setting", "dataset", "choice"],
    "mart_alignment": ["sets", "setting", "measure"],
    "mart_language": ["dataset"],
}
REPORTED = [
    *("int_outcomes", "int_scores", *FIGURES),
    *(
        "mart_scaling",
        "mart_variants",
        "mart_seeds",
        "mart_exemplars",
        "mart_finetuned",
        "eval_report",
    ),
    *("mart_reliability", "mart_choices", "mart_confusion"),
]


@pytest.fixture
def store(data_side: DataSide, tokenizer: Any, tmp_path: Path) -> Store:
    """The suites, and a tiny model under the name of one of the catalogue's."""
    shutil.copytree(data_side.store.root, tmp_path / "smoke")
    store = Store(tmp_path / "smoke")
    model = save_reading_model(tmp_path / "model", deepcopy(tokenizer))
    (model / "provenance.json").write_text(json.dumps({"source": "a test"}))
    for key in ("base_model", "symbol_tuned_model"):
        with store.writing(key, MODEL) as folder:
            shutil.copytree(model, folder, dirs_exist_ok=True)
    with store.writing("tuning_log", MODEL) as folder:
        pl.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]}).write_parquet(folder / TABLE)
        (folder / "settings.json").write_text("{}")
    return store


@pytest.fixture
def server(store: Store) -> Iterator[ModelServer]:
    with ModelServer(store.folder("base_model", MODEL)).serving() as server:
        yield server


class Here(Launcher):
    """Runs a job in this process: starting one takes seconds, and other tests do."""

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher."""
        return run_job(JobConfig.model_validate_json(job.model_dump_json()), context.log.info)


def answered(
    store: Store, experiment: Experiment, assets: Sequence[str] = ANSWERS
) -> dg.ExecuteInProcessResult:
    return materialise(experiment, store.root, assets, MODEL, Here())


def served_at(url: str, **changed: Any) -> Experiment:
    settings = {"url": url, "model": NAME, "protocol": "sglang"}
    experiment = load_experiment("smoke")
    endpoints = {SERVED: EndpointConfig.model_validate(settings | changed)}
    evaluation = experiment.evaluation.model_copy(update={"endpoints": endpoints})
    return experiment.model_copy(update={"evaluation": evaluation})


@pytest.mark.long
def test_a_served_model_stands_in_tables_marts_and_report_with_the_numbers_of_its_folder(
    store: Store, server: ModelServer
) -> None:
    assert answered(store, load_experiment("smoke"), ["eval_icl"]).success
    kept = store.manifest("predictions_eval_icl", f"{MODEL}-untuned").version

    made = answered(store, served_at(server.url), [*ANSWERS, "eval_finetuned"])
    assert made.success
    assert server.asked, "it was not asked"
    assert store.manifest("predictions_eval_icl", f"{MODEL}-untuned").version == kept
    for check in made.get_asset_check_evaluations():
        assert check.passed or check.check_name == "accuracy_not_below_chance"
    [event] = made.asset_materializations_for_node("eval_icl")
    assert event.metadata["path"].value == {
        "untuned": RAN, "tuned": RAN, SERVED: f"served as {NAME}",
    }  # fmt: skip
    for name in ANSWERS:
        table = store.read_table(name, MODEL)
        counts = dict(table.group_by("variant").len().iter_rows())
        assert set(counts) == {"untuned", "tuned", SERVED} and len(set(counts.values())) == 1

    assert materialise(served_at(server.url), store.root, REPORTED).success
    for mart, keys in FIGURES.items():
        figures = store.read_table(mart)
        ours, untuned = (figures.filter(variant=name) for name in (SERVED, "untuned"))
        numbers = [n for n, t in figures.schema.items() if t.is_numeric() and n not in keys]
        assert ours.height == untuned.height > 0
        both = ours.join(untuned, on=keys, nulls_equal=True, suffix=" untuned")
        assert both.height == ours.height
        for name in numbers:
            expected = both[f"{name} untuned"].to_list()
            assert both[name].to_list() == pytest.approx(expected, abs=1e-4), (mart, name)
    compared = store.read_table("mart_variants").filter(variant=SERVED, versus="untuned")
    assert compared.height and set(compared["gain"]) == {0.0}
    page = (store.folder("eval_report") / "index.html").read_text(encoding="utf-8")
    assert f"{MODEL}.scoring.{SERVED}</th><td>served as {NAME}<" in page
    assert server.url not in page
    assert f">{SERVED}</td>" in page, "the table of variants has it"
    records = json.loads((store.folder("eval_report") / "summary.json").read_text("utf-8"))
    assert {record["variant"] for record in records} == {"untuned", "tuned", SERVED}

    # Another address is the same model; another name is another one.
    server.asked.clear()
    moved = served_at("http://127.0.0.1:1")
    assert answered(store, moved).success
    assert not server.asked
    renamed = answered(store, served_at(server.url, model="other"), ["eval_icl"])
    [failed] = [event for event in renamed.all_events if event.is_step_failure]
    told = failed.step_failure_data.user_failure_data
    assert told and told.description
    assert told.description.startswith(f"Endpoint {server.url} does not serve 'other' but 'tiny'")
    assert store.read_table("eval_icl", MODEL).filter(variant=SERVED).height
