"""A mixture of tasksource's prompts in the graph: beside one that is made here, or alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import written_rows
import yaml
from conftest import ROOT
from graph import Here, materialise

from assets.location import code_location
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.prompts.written import LONG, SYMBOL
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
        ({"label_noise": 0.1}, "set it to 0.0 or source to datasets"),
        ({"source": "tasksourc"}, "'datasets' or 'tasksource'"),
    ],
)
def test_a_setting_that_written_prompts_cannot_follow_is_refused(
    changed: dict[str, object], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        experiment(tmp_path, mixture=TASKSOURCE | changed)
    assert reason in str(error.value) and "setting 'mixture" in str(error.value)


@pytest.mark.parametrize(
    "changed", [{"categories": ["word"]}, {"tuning_size": 30}, {"spread": "near"}]
)
def test_a_setting_of_symbols_that_are_written_is_refused(
    changed: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"so that symbols\.{next(iter(changed))} changes nothing"):
        experiment(tmp_path, mixture=TASKSOURCE, symbols=changed)


def fill(mirror: Mirror) -> None:
    """Good rows of three tasks, one of them long, and two that cannot be right."""
    rows: list[Any] = [
        written_rows.row(i, task, form=i % 3)
        for task in ("glue/rte", "babi_nli/counting", "trec")
        for i in range(24)
    ]
    task, inputs, *symbols = written_rows.row(1)
    rows += [(task, inputs, "a", ["a", "b"]), (task, "no label", "a", ["a", "b"])]
    rows += [(task, inputs.replace("Input: the", f"Input: {'the ' * 1_200}", 1), *symbols)]
    written_rows.write(mirror, rows)


DATA = {
    "source": "generated", "train_rows": 30, "test_rows": 20, "datasets": ["phone_reviews", "inbox"],
}  # fmt: skip


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    monkeypatch.setenv("SYMTUNE_MIRROR", str(tmp_path / "mirror"))
    made = Mirror(str(tmp_path / "mirror"))
    fill(made)
    return made


@pytest.mark.slow
def test_a_mixture_is_drawn_from_a_mirror_and_says_what_is_left_out(
    tmp_path: Path, mirror: Mirror
) -> None:
    mixture = TASKSOURCE | {"max_characters": 4_000, "leave_out": ["trec"]}
    of = experiment(tmp_path, data=DATA, mixture=mixture)
    root = tmp_path / "store"
    made = materialise(of, root, ["+key:tuning_mixture"])
    assert made.success
    [raw] = made.asset_materializations_for_node("raw_tasksource")
    assert raw.metadata["rows left out"].value == {NOT_FOUND: 2}
    [event] = made.asset_materializations_for_node("tuning_mixture")
    pool, drawn = (Store(root).read_table(key) for key in ("symbol_pool", "tuning_mixture"))
    kept = pool.filter(split="evaluation")["symbol"].str.to_lowercase()
    used = drawn["labels"].explode().str.to_lowercase()
    assert used.filter(used.is_in(kept.implode())).is_empty()
    published = Store(root).read_table("raw_tasksource").filter(pl.col("dataset") != "trec")
    symbols = published["labels"].list.eval(pl.element().str.to_lowercase().is_in(kept.implode()))
    assert symbols.list.any().sum() > 0, "the case under test must occur"
    assert event.metadata["prompts left out"].value == {LONG: 1, SYMBOL: symbols.list.any().sum()}
    assert len(drawn) == len(published) - 1 - symbols.list.any().sum() - 8
    assert event.metadata["sets"].value == ["babi_nli/counting", "glue/rte"]
    assert event.metadata["held-out prompts"].value == 8
    checks = {check.check_name: check.passed for check in made.get_asset_check_evaluations()}
    assert checks["no_evaluation_data"]

    broken = Store(root).read_table("raw_tasksource").with_columns(dataset=pl.lit("trec"))
    with Store(root).writing("raw_tasksource") as folder:
        broken.write_parquet(folder / TABLE)
    ended = materialise(of, root, ["tuning_mixture"])
    [failure] = ended.get_step_failure_events()
    assert "tasksource has no prompt for this experiment" in str(failure)


@pytest.mark.long
def test_prompts_from_a_mirror_are_tuned_on_and_measured(tmp_path: Path, mirror: Mirror) -> None:
    of = experiment(
        tmp_path, data=DATA, mixture=TASKSOURCE, tuning={"block_tokens": 512, "loss": "final_label"}
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
