"""The pretrained parent beside the model before and after tuning, from its answers to the report."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import torch
from conftest import DataSide
from graph import Here, materialise
from safetensors.torch import load_file, save_file
from tiny_models import save_reading_model

from assets.location import code_location
from resources.store import StoreResource
from symtune_pipeline.evaluation.predictions import packages
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import SYMBOL_POOL

pytestmark = pytest.mark.slow

WEIGHTS = "model.safetensors"
PARENT = "smollm2-135m"  # the catalogue names its parent
ORPHAN = "micro"
RAN = f"fp32 on cpu, {', '.join(packages())}"
SCORES = ["int_outcomes", "int_scores"]
MARTS = [
    f"mart_{name}"
    for name in (
        *("icl", "flipped", "algorithmic", "summary", "scaling"),
        *("calibrated", "alignment", "language", "variants", "seeds", "exemplars", "finetuned"),
        *("reliability", "choices", "confusion"),
    )
]
ANSWERS = ["eval_icl", "eval_flipped", "eval_algorithmic", "eval_language"]


def with_parents(experiment: Experiment) -> Experiment:
    evaluation = experiment.evaluation.model_copy(update={"pretrained": True})
    return experiment.model_copy(update={"evaluation": evaluation})


def with_chat(experiment: Experiment) -> Experiment:
    evaluation = experiment.evaluation.model_copy(update={"chat_template": True})
    return experiment.model_copy(update={"evaluation": evaluation})


def materialised(
    store: Store, selection: list[str], model: str | None
) -> dg.ExecuteInProcessResult:
    experiment = with_parents(load_experiment("smoke"))
    experiment = experiment.model_copy(update={"models": (ORPHAN, PARENT)})
    return materialise(experiment, store.root, selection, model)


@pytest.fixture
def store(data_side: DataSide, tokenizer: Any, tmp_path: Path) -> Store:
    """The suites, and tiny models under the names of real ones."""
    shutil.copytree(data_side.store.root, tmp_path / "smoke")
    store = Store(tmp_path / "smoke")
    model = save_reading_model(tmp_path / "model", deepcopy(tokenizer))
    (model / "provenance.json").write_text(json.dumps({"source": "a test"}))
    for key in ("base_model", "symbol_tuned_model", "pretrained_model"):
        with store.writing(key, PARENT) as folder:
            shutil.copytree(model, folder, dirs_exist_ok=True)
    with store.writing("tuning_log", PARENT) as folder:
        pl.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]}).write_parquet(folder / TABLE)
        (folder / "settings.json").write_text("{}")
    return store


def test_the_parent_answers_what_the_others_answer_and_is_reported(store: Store) -> None:
    made = materialised(store, [*ANSWERS, "eval_finetuned"], PARENT)
    assert made.success
    for name, path in (
        ("eval_icl", f"packed, {RAN}"),
        ("eval_algorithmic", f"in batches, beginnings shared, {RAN}"),
    ):
        [event] = made.asset_materializations_for_node(name)
        shown = dict.fromkeys(("pretrained", "untuned", "tuned"), path)
        assert event.metadata["path"].value == shown
    for name in ANSWERS:
        predictions = store.read_table(name, PARENT)
        by_variant = dict(predictions.group_by("variant").len().iter_rows())
        assert set(by_variant) == {"pretrained", "untuned", "tuned"}
        assert len(set(by_variant.values())) == 1

    # Of another partition only one of three evaluations is finished.
    rows = store.read_table("eval_icl", PARENT).filter(pl.col("variant") != "pretrained")
    with store.writing("eval_icl", ORPHAN) as folder:
        shutil.copytree(store.folder("eval_icl", PARENT), folder, dirs_exist_ok=True)
        rows.with_columns(model=pl.lit(ORPHAN)).write_parquet(folder / TABLE)
    for key in ("base_model", "symbol_tuned_model", "tuning_log"):
        with store.writing(key, ORPHAN) as folder:
            shutil.copytree(store.folder(key, PARENT), folder, dirs_exist_ok=True)
    assert materialised(store, ["pretrained_model"], ORPHAN).success
    assert store.manifest("pretrained_model", ORPHAN).files == {}

    assert materialised(store, [*SCORES, *MARTS, "eval_report"], None).success
    scaling = store.read_table("mart_scaling")
    assert set(scaling.filter(model=PARENT)["variant"]) == {"pretrained", "untuned", "tuned"}
    # The same weights under two names: untuned, the small one is as good as the large one tuned.
    (same,) = set(scaling.filter(variant="tuned", benchmark="icl")["as_good_untuned"])
    assert same == ORPHAN
    page = (store.folder("eval_report") / "index.html").read_text(encoding="utf-8")
    assert "pretrained" in page and "Across models" in page
    assert f"{PARENT}.pretrained model.source" in page
    assert f"{ORPHAN}.pretrained model" not in page
    for name, path in (
        ("scoring.pretrained", f"packed, {RAN}"),
        ("generation.tuned", f"in batches, beginnings shared, {RAN}"),
    ):
        assert re.search(rf"{PARENT}\.{name}</th><td>{re.escape(path)}<", page)
    assert f"{ORPHAN}.scoring.tuned" in page and f"{ORPHAN}.generation" not in page


def test_a_variant_is_tuned_from_the_parents_weights_and_says_so(store: Store) -> None:
    """The parent's weights are half as large here; a few steps of tuning move them little."""
    parent = store.folder("pretrained_model", PARENT)
    halved = {k: v / 2 for k, v in load_file(parent / WEIGHTS).items()}
    with store.writing("pretrained_model", PARENT) as folder:
        shutil.copytree(parent, folder, dirs_exist_ok=True)
        save_file(halved, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / "provenance.json").write_text(json.dumps({"source": "its parent", "sha256": {}}))
    few = store.read_table("symbol_pool").group_by("split").head(50)  # each costs time to compare
    with store.writing("symbol_pool") as folder:
        SYMBOL_POOL.write(few.select(*SYMBOL_POOL.columns), folder)
    smoke = load_experiment("smoke").model_dump(exclude={"variants"})
    of = Experiment.model_validate(
        smoke
        | {
            "models": [PARENT],
            "variants": {
                "base": {"tuning": {"model": "pretrained"}, "mixture": {"leave_out": ["trades"]}}
            },
        }
    )
    own = ["tuning_mixture_base", "packed_mixture_base", "symbol_tuned_model_base"]
    made = materialise(of, store.root, own, PARENT, Here())
    assert made.success, made.get_failed_step_keys()
    tuned = store.folder("symbol_tuned_model_base", PARENT)
    for name, weights in load_file(tuned / WEIGHTS).items():
        assert (weights.float() - halved[name].float()).abs().max() < 0.05, name
    moved = [not torch.equal(w, halved[k]) for k, w in load_file(tuned / WEIGHTS).items()]
    assert any(moved)
    card = (tuned / "README.md").read_text(encoding="utf-8")
    assert "base_model: HuggingFaceTB/SmolLM2-135M\n" in card and "its parent" in card
    assert "| hotel_reviews |" in card and "| trades |" not in card


def test_answers_of_other_hardware_are_not_compared_with(store: Store) -> None:
    """The untuned model answered on a GPU; now the tuned one is another, and there is none."""
    key, untuned = "predictions_eval_icl", f"{PARENT}-untuned"
    assert materialised(store, ["eval_icl"], PARENT).success
    expected = store.read_table("eval_icl", PARENT)
    made_from = store.manifest(key, untuned).made_from
    path = pl.lit(f"packed, bf16 on cuda, {', '.join(packages())}")
    elsewhere = store.read_table(key, untuned).with_columns(path=path, correct=False)
    with store.writing(key, untuned, made_from) as folder:
        elsewhere.write_parquet(folder / TABLE)
    tuned = store.folder("symbol_tuned_model", PARENT)
    with store.writing("symbol_tuned_model", PARENT) as folder:
        shutil.copytree(tuned, folder, dirs_exist_ok=True)
        (folder / "README.md").write_text("Another version.")
    assert materialised(store, ["eval_icl"], PARENT).success
    assert store.read_table("eval_icl", PARENT).equals(expected)


def test_a_dropped_model_is_asked_as_those_of_the_graph_are(store: Store, tmp_path: Path) -> None:
    dropped = tmp_path / "model"
    results = []
    for experiment in (load_experiment("smoke"), with_chat(load_experiment("smoke"))):
        job = code_location(experiment).resolve_job_def("evaluate_folder")
        with dg.DagsterInstance.ephemeral() as instance:
            results.append(
                job.execute_in_process(
                    run_config={"ops": {"score_incoming": {"config": {"folder": str(dropped)}}}},
                    resources={"store": StoreResource(root=str(store.root))},
                    instance=instance,
                    raise_on_error=False,
                )
            )
    asked, refused = results
    [event] = asked.asset_materializations_for_node("score_incoming")
    assert event.metadata["path"].value == {
        "scoring": "packed",
        "generation": "in batches, beginnings shared",
    }
    [failed] = [event for event in refused.all_events if event.is_step_failure]
    told = failed.step_failure_data.user_failure_data
    assert told and told.description
    assert "has no chat template, which evaluation.chat_template asks for" in told.description


def test_a_parent_that_cannot_be_had_is_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(store.root / "hub"))
    shutil.rmtree(store.root / "pretrained_model")
    ended = materialised(store, ["pretrained_model"], PARENT)
    assert not ended.success
    (failed,) = [event for event in ended.all_events if event.is_step_failure]
    told = failed.step_failure_data.user_failure_data
    assert told and told.description
    assert told.description.startswith(
        "The hub cannot be reached, and of HuggingFaceTB/SmolLM2-135M ("
    )
    assert told.description.endswith("; connect, or bring it into the cache.")
