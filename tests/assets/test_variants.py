"""Variants in the graph: what each has of its own, what all share, and how they are compared."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from conftest import ROOT, Ended, Home
from graph import materialise

from assets.location import code_location
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.report.variants import variants_table
from symtune_pipeline.store.folder import Store

VARIANTS = {
    "again": {"seed": 1},
    "final": {"tuning": {"loss": "final_label"}},
    "natural": {"mixture": {"labels": "natural"}},
    "words": {"symbols": {"categories": ["word"]}},
}


def experiment(folder: Path, variants: object) -> Experiment:
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    path = folder / "smoke.yaml"
    path.write_text(yaml.safe_dump(settings | {"variants": variants}), encoding="utf-8")
    return load_experiment(str(path))


def inputs(of: Experiment) -> dict[str, set[str]]:
    graph = code_location(of).resolve_asset_graph()
    return {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }


def test_a_variant_has_assets_of_its_own_where_something_differs(tmp_path: Path) -> None:
    plain, graph = inputs(experiment(tmp_path, {})), inputs(experiment(tmp_path, VARIANTS))
    pool, mixture, packed, tuned = (
        "symbol_pool", "tuning_mixture", "packed_mixture", "symbol_tuned_model",
    )  # fmt: skip
    assert set(graph) - set(plain) == {
        f"{mixture}_again", f"{packed}_again", f"{tuned}_again",
        f"{tuned}_final",
        f"{mixture}_natural", f"{packed}_natural", f"{tuned}_natural",
        f"{pool}_words", f"{mixture}_words", f"{packed}_words", f"{tuned}_words",
    }  # fmt: skip
    assert packed in graph[f"{tuned}_final"]
    assert pool in graph[f"{mixture}_again"] and f"{mixture}_again" in graph[f"{packed}_again"]
    assert f"{pool}_words" in graph[f"{packed}_words"]
    assert graph["eval"] == plain["eval"], "all are asked the same"
    for answers in (
        "eval_icl",
        "eval_flipped",
        "eval_algorithmic",
        "eval_language",
        "eval_finetuned",
    ):
        assert graph[answers] - plain[answers] == {f"{tuned}_{name}" for name in VARIANTS}
    # The guard reads every mixture with symbols; one with natural labels has none.
    own = {f"{mixture}_again", f"{mixture}_words", f"{pool}_words"}
    assert graph["int_contamination"] - plain["int_contamination"] == own


PRETRAINED = {"base": {"tuning": {"model": "pretrained"}}}


def of_smollm(folder: Path, **changed: object) -> Experiment:
    """The smoke experiment with a model that has a parent, and a variant that is tuned from it."""
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    settings |= {"models": ["smollm2-135m"], "variants": PRETRAINED} | changed
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_experiment(str(path))


def test_a_variant_may_be_tuned_from_the_pretrained_parent(tmp_path: Path) -> None:
    plain, graph = inputs(of_smollm(tmp_path, variants={})), inputs(of_smollm(tmp_path))
    packed, tuned = "packed_mixture_base", "symbol_tuned_model_base"
    assert set(graph) - set(plain) == {"pretrained_model", packed, tuned}
    assert graph[tuned] == {"pretrained_model", packed}
    assert "pretrained_model" in graph[packed] and "base_model" not in graph[packed]
    assert {key: graph[key] for key in ("packed_mixture", "symbol_tuned_model")} == {
        key: plain[key] for key in ("packed_mixture", "symbol_tuned_model")
    }
    assert graph["eval_icl"] - plain["eval_icl"] == {tuned}, "the parent itself is not asked"


def test_symbols_that_differ_or_lie_far_apart_do_so_for_the_parent(
    tmp_path: Path,
) -> None:
    distinct = {"mixture": {"prompts": 60, "distinct_first_token": True}}
    for setting in (distinct, {"symbols": {"spread": "far"}}):
        graph = inputs(of_smollm(tmp_path, **setting))
        assert "base_model" in graph["tuning_mixture"]
        assert "pretrained_model" in graph["tuning_mixture_base"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"models": ["micro"]}, "in 'base', tuning: the catalogue names no pretrained-only parent of 'mi"),
        ({"models": ["smollm2-135m", "gemma3-270m"]}, "no pretrained-only parent of 'gemma3-270m'"),
        ({"evaluation": {"chat_template": True}}, "a pretrained parent has no chat template"),
        ({"variants": {}, "tuning": {"model": "pretrained"}}, "'tuning.model': only a variant can be tuned"),
    ],
)  # fmt: skip
def test_a_parent_that_cannot_be_tuned_is_refused(
    changed: dict[str, object], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        of_smollm(tmp_path, **changed)
    assert reason in str(error.value) and "mine.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("variants", "reason"),
    [
        ({"tuned": {"seed": 1}}, "there is a variant 'tuned' already"),
        ({"incoming": {"seed": 1}}, "there is a variant 'incoming' already"),
        ({"a": {}}, "'a' has the same settings as 'tuned'"),
        ({"a": {"seed": 0}}, "'a' has the same settings as 'tuned'"),
        ({"a": {"seed": 1}, "b": {"seed": 1}}, "'b' has the same settings as 'a'"),
        ({"a": {"tuning": {"los": "x"}}}, r"in 'a', tuning\.los: unknown setting"),
        ({"a": {"mixture": {"prompts": 0}}}, r"in 'a', mixture\.prompts: "),
        ({"a": {"tuning": {"block_tokens": 99_999}}}, "in 'a', tuning: tuning.block_tokens is 99,999"),
        ({"a": {"evaluation": {}}}, "unknown setting"),
        ({"a/b": {"seed": 1}}, "pattern"),
        ({"a": {"seed": -1}}, "greater than or equal to 0"),
        ([1], "dictionary"),
    ],
)  # fmt: skip
def test_a_variant_that_cannot_be_is_refused_with_its_name(
    variants: object, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"smoke\.yaml, setting 'variants.*': .*{reason}"):
        experiment(tmp_path, variants)


def test_how_checkpoints_are_kept_makes_no_variant_and_holds_for_all(tmp_path: Path) -> None:
    variants: dict[str, object] = {"often": {"tuning": {"keep_checkpoints": 9}}}
    with pytest.raises(UserError, match="'often' has the same settings as 'tuned'"):
        experiment(tmp_path, variants)
    path = tmp_path / "smoke.yaml"
    experiment(tmp_path, VARIANTS)
    rare = load_experiment(str(path), ["tuning.checkpoint_seconds=600"])
    assert {each.tuning.checkpoint_seconds for each in rare.tuned().values()} == {600}


def test_what_differs_in_the_seed_alone_is_one_recipe(tmp_path: Path) -> None:
    more = VARIANTS | {"final2": {"seed": 2, "tuning": {"loss": "final_label"}}}
    assert experiment(tmp_path, more).recipes() == {
        "tuned": "tuned", "again": "tuned", "final": "final", "natural": "natural",
        "words": "words", "final2": "final",
    }  # fmt: skip


@pytest.mark.long
def test_variants_are_tuned_asked_and_compared(
    smoke_run: tuple[Home, Ended], tmp_path: Path
) -> None:
    root = smoke_run[0].copy(tmp_path / "copy").store.root
    before = {key: Store(root).manifest(key).version for key in ("symbol_pool", "tuning_mixture")}
    chosen = {name: VARIANTS[name] for name in ("again", "final")}
    of = experiment(tmp_path, chosen)
    made = materialise(of, root, ["*"], "micro")
    assert made.success, made.get_failed_step_keys()
    store = Store(root)
    assert {key: store.manifest(key).version for key in before} == before
    assert store.find("tuning_mixture_again") and not store.find("tuning_mixture_final")
    versions = {
        name: store.manifest(f"symbol_tuned_model{name}", "micro").version
        for name in ("", "_again", "_final")
    }
    assert len(set(versions.values())) == 3

    answers = store.read_table("eval_icl", "micro")
    counts = dict(answers.group_by("variant").len().iter_rows())
    assert set(counts) == {"untuned", "tuned", *chosen} and len(set(counts.values())) == 1
    mart = store.read_table("mart_variants")
    accuracy = answers.group_by("setting", "variant").agg(pl.col("correct").mean().alias("mean"))
    found = mart.filter(benchmark="icl", measure="accuracy").join(
        accuracy, on=["setting", "variant"]
    )
    assert len(found) == 4 * (2 + 2 + 1)
    assert found["accuracy"].to_list() == pytest.approx(found["mean"].to_list())
    assert set(store.read_table("mart_seeds")["recipe"]) == {"tuned"}
    assert variants_table(mart.filter(measure="accuracy"))
    page = (store.folder("eval_report") / "index.html").read_text(encoding="utf-8")
    assert "<h2>Variants</h2>" in page and "<h2>Over seeds</h2>" in page
    settings = json.loads(
        (store.folder("tuning_log_final", "micro") / "settings.json").read_text(encoding="utf-8")
    )
    assert settings["loss"] == "final_label"
