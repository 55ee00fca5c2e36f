"""A mixture of tasksource's prompts in the graph: beside one that is made here, or alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import written_rows
import yaml
from conftest import ROOT
from graph import Here, materialise

from assets.location import code_location
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.sources.mirror import Mirror
from symtune_pipeline.sources.tasksource import NOT_FOUND
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import WRITTEN_HELD_OUT

TASKSOURCE = {"source": "tasksource", "prompts": 40, "held_out_prompts": 8}
BESIDE = {"variants": {"published": {"mixture": TASKSOURCE}}}


def experiment(folder: Path, **changed: Any) -> Experiment:
    """The smoke experiment with other settings."""
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(settings | changed), encoding="utf-8")
    return load_experiment(str(path))


def graph(of: Experiment) -> tuple[dict[str, set[str]], dict[str, str | None]]:
    """The inputs of every asset, and its code version."""
    nodes = list(code_location(of).resolve_asset_graph().asset_nodes)
    return (
        {n.key.to_user_string(): {k.to_user_string() for k in n.parent_keys} for n in nodes},
        {n.key.to_user_string(): n.code_version for n in nodes},
    )


def test_nothing_changes_for_what_is_made_of_the_tuning_sets(tmp_path: Path) -> None:
    (plain, before), (beside, after) = (
        graph(experiment(tmp_path)), graph(experiment(tmp_path, **BESIDE)),
    )  # fmt: skip
    own = {
        f"{name}_published" for name in ("tuning_mixture", "packed_mixture", "symbol_tuned_model")
    }
    assert beside.keys() - plain.keys() == {"raw_tasksource", *own}
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"eval_report", "int_scores", "mart_seeds", "mart_variants"} | {
        name for name in before if name.startswith(("int_outcomes", "mart_"))
    }
    assert beside["int_contamination"] == plain["int_contamination"], "it has a guard of its own"
    assert beside["tuning_mixture_published"] == {
        "raw_tasksource", "symbol_pool", "int_evaluation_examples",
    }  # fmt: skip
    assert beside["packed_mixture_published"] == {
        "base_model", "symbol_pool", "tuning_mixture_published",
    }  # fmt: skip
    named = experiment(
        tmp_path, mixture={"prompts": 60, "exemplars_per_class": [2, 4], "source": "datasets"}
    )
    assert graph(named)[1] == before


def test_variants_may_differ_in_where_their_prompts_come_from(tmp_path: Path) -> None:
    made = {"source": "datasets", "prompts": 60}
    seeds = {"seed1": {"seed": 1}, "made": {"mixture": made}}
    found, _ = graph(experiment(tmp_path, mixture=TASKSOURCE, variants=seeds))
    assert "raw_tasksource" in found["tuning_mixture"] & found["tuning_mixture_seed1"]
    assert "int_tuning_examples" in found["tuning_mixture_made"]
    assert found["int_contamination"] >= {"tuning_mixture_made", "symbol_pool"}
    assert "tuning_mixture" not in found["int_contamination"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"labels": "natural"}, "labels is for prompts that are made here"),
        ({"labels": "shuffled"}, "set it to symbols or source to datasets"),
        ({"instructed_share": 0.5}, "instructed_share is for prompts"),
        ({"distinct_first_token": True}, "set it to false or source to datasets"),
        ({"source": "tasksourc"}, "'datasets' or 'tasksource'"),
    ],
)
def test_a_setting_that_written_prompts_cannot_follow_is_refused(
    changed: dict[str, object], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        experiment(tmp_path, mixture=TASKSOURCE | changed)
    assert reason in str(error.value) and "setting 'mixture" in str(error.value)


def fill(mirror: Mirror) -> None:
    """Good rows of three tasks, one that is too long, and two that cannot be right."""
    rows: list[Any] = [
        written_rows.row(i, task, form=i % 3)
        for task in ("glue/rte", "babi_nli/counting", "trec")
        for i in range(24)
    ]
    long = ("trec", written_rows.row(1)[1].replace("Input: the", f"Input: {'the ' * 1_200}", 1))
    rows += [(*long, "a", ["a", "b"]), ("trec", "no label", "a", ["a", "b"])]
    rows += [(*long, *written_rows.row(1)[2:])]
    written_rows.write(mirror, rows)


@pytest.mark.slow
def test_prompts_from_a_mirror_are_tuned_on_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_MIRROR", str(tmp_path / "mirror"))
    fill(Mirror(str(tmp_path / "mirror")))
    data = {"source": "generated", "train_rows": 30, "test_rows": 20,
            "datasets": ["phone_reviews", "inbox"]}  # fmt: skip
    of = experiment(
        tmp_path, data=data, mixture=TASKSOURCE, tuning={"block_tokens": 512, "loss": "final_label"}
    )
    root = tmp_path / "store"
    made = materialise(
        of, root, ["+key:symbol_tuned_model", "+key:int_contamination"], "micro", Here()
    )
    assert made.success
    store = Store(root)
    assert len(store.read_table("raw_tasksource")) == 73
    [event] = made.asset_materializations_for_node("raw_tasksource")
    assert event.metadata["rows left out"].value == {NOT_FOUND: 2}
    mixture = store.read_table("tuning_mixture")
    assert mixture["dataset"].value_counts(sort=True)["count"].to_list() == [14, 13, 13]
    held_out = store.read_table("tuning_mixture", name=WRITTEN_HELD_OUT.file)
    assert len(held_out) == 8 and not set(held_out["prompt"]) & set(mixture["prompt"])
    packed = store.read_table("packed_mixture", "micro")
    [event] = made.asset_materializations_for_node("packed_mixture")
    left_out = sum(event.metadata["prompts left out"].value.values())  # type: ignore[union-attr]
    assert packed["sequence_lengths"].list.len().sum() == 40 - left_out
    log = store.read_table("tuning_log", "micro")
    assert log["symbol_chance"].drop_nulls().unique().to_list() == [0.5]
    card = (store.folder("symbol_tuned_model", "micro") / "README.md").read_text(encoding="utf-8")
    assert "tasksource/icl-symbol-tuning-instruct" in card and "Sileo 2023" in card
    assert not made.get_failed_step_keys()
