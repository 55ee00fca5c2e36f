"""The files in experiments/ablations: what each changes, and a run of all of them together."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from conftest import ROOT, Ended, Home
from graph import Here, materialise
from transformers import AutoModelForCausalLM, AutoTokenizer

from assets.location import code_location
from assets.variants import own_keys
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.store.folder import Store

FOLDER = ROOT / "experiments" / "ablations"
FILES = sorted(FOLDER.glob("*.yaml"))
SMALLER = 25  # times fewer prompts than in the files
SETS = ["hotel_reviews", "trades", "hobby_posts", "magazine_topics"]
NUMBERS = [1, 2, 4, 8, 16]  # of exemplars, as in the file of that name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_ablation_is_the_quickstart_with_one_thing_changed(path: Path) -> None:
    found, quickstart = load_experiment(f"ablations/{path.stem}"), load_experiment("quickstart")
    assert found == load_experiment(str(path))
    assert found.variants
    numbers = {"exemplars_per_class": quickstart.evaluation.exemplars_per_class}
    evaluation = found.evaluation.model_copy(update=numbers)
    same = {"name": quickstart.name, "variants": {}, "evaluation": evaluation}
    assert found.model_copy(update=same).model_dump() == quickstart.model_dump()
    code_location(found)
    for name, variant in found.variants.items():
        assert len(variant.model_fields_set) == 1
        assert own_keys(found, name)["symbol_tuned_model"] == f"symbol_tuned_model_{name}"


def together(folder: Path) -> Experiment:
    """All ablations as variants of one experiment on `micro` and a few prompts."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES]
    changes: dict[str, dict[str, Any]] = {}
    for path, settings in zip(FILES, files, strict=True):
        for name, changed in settings["variants"].items():
            if "prompts" in changed.get("mixture", {}):
                changed["mixture"]["prompts"] //= SMALLER
            if "sets" in changed.get("mixture", {}):
                changed["mixture"]["sets"] = min(changed["mixture"]["sets"], len(SETS) - 1)
            if changed not in changes.values():
                changes[f"{path.stem}_{name}".replace("-", "_")] = changed
    mixture = files[0]["mixture"]
    few = {"prompts": mixture["prompts"] // SMALLER, "held_out_prompts": 2}
    settings = files[0] | {
        "models": ["micro"],
        "data": {"source": "generated", "datasets": SETS, "train_rows": 80, "test_rows": 20},
        "mixture": mixture | few,
        "evaluation": {
            "exemplars_per_class": NUMBERS, "contexts": 1, "queries": 2, "list_functions": 1,
            "turing_programs": 1, "language_texts": 2, "finetuned": {"steps": 1},
        },
        "variants": changes,
    }  # fmt: skip
    path = folder / "ablations.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_experiment(str(path))


def _likeness(labels: pl.Series, model: Path) -> float:
    """The mean cosine between the symbols of a prompt, in transformers' own embeddings of the model."""
    table = AutoModelForCausalLM.from_pretrained(model).get_input_embeddings().weight.detach()
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for symbols in labels:
        means = [
            table[tokenizer.encode(f" {symbol}", add_special_tokens=False)].mean(dim=0)
            for symbol in symbols
        ]
        found += [float(torch.cosine_similarity(*pair, dim=0)) for pair in combinations(means, 2)]
    return sum(found) / len(found)


@pytest.mark.slow
def test_every_variant_of_every_ablation_runs(
    smoke_run: tuple[Home, Ended], tmp_path: Path
) -> None:
    """All together: each is tuned, and asked with all numbers of exemplars."""
    root, of = tmp_path / "store", together(tmp_path)
    shutil.copytree(smoke_run[0].store.root / "base_model", root / "base_model")
    made = materialise(of, root, ["group:raw or group:examples or group:mixture"])
    assert made.success, made.get_failed_step_keys()
    store = Store(root)

    def mixture(variant: str = "") -> pl.DataFrame:
        return store.read_table(f"tuning_mixture{variant and '_'}{variant}")

    def pool(variant: str) -> pl.DataFrame:
        return store.read_table(f"symbol_pool_{variant}").filter(split="tuning")

    prompts, whole = len(mixture()), mixture()
    assert len(mixture("steps_prompts_400")) == 2 * prompts
    drawn_from = [set(mixture(f"tuning_sets_sets_{n}")["dataset"]) for n in (1, 2)]
    assert len(drawn_from[0]) == 1 and drawn_from[0] < drawn_from[1] < set(SETS)
    sizes = [len(pool(f"pool_size_symbols_{n}")) for n in (30, 300, 3_000)]
    assert sizes == [30, 300, 3_000]
    assert pool("pool_category_words")["category"].unique().to_list() == ["word"]
    shares = [mixture(f"instruction_data_symbols_{n}")["instructed"].sum() for n in (84, 50, 16, 0)]
    assert 0 <= shares[0] < shares[2] < shares[3] == prompts and shares == sorted(shares)
    shuffled = mixture("shuffled_symbols_shuffled")
    assert shuffled["examples"].equals(whole["examples"])
    assert shuffled["labels"].equals(whole["labels"])
    assert not shuffled["targets"].equals(whole["targets"])
    natural = mixture("exemplars_natural")
    assert natural["targets"].equals(whole["targets"])
    assert not natural["labels"].equals(whole["labels"]) and not natural["instructed"].any()

    spread = {way: mixture(f"symbol_spread_{way}") for way in ("near", "far")}
    assert all(drawn.drop("labels").equals(whole.drop("labels")) for drawn in spread.values())
    assert not store.find("symbol_pool_symbol_spread_near"), "the pool is the same"
    like = {way: _likeness(drawn["labels"], store.folder("base_model", "micro")) for way, drawn in
            (spread | {"random": whole}).items()}  # fmt: skip
    assert like["near"] > like["random"] > like["far"]

    made = materialise(of, root, ["* and not key:eval_report"], "micro", Here())
    assert made.success, made.get_failed_step_keys()
    variants = {"tuned", *of.variants}
    curves = store.read_table("mart_exemplars").filter(benchmark="icl", measure="accuracy")
    assert len(curves) == 4 * len({"untuned", *variants}) * len(NUMBERS)
    assert curves["n"].unique().to_list() == [2]
    ways = store.read_table("mart_finetuned")
    assert set(ways["way"]) == {"zero-shot", "in context", "fine-tuned", "both"}
    assert set(ways["variant"]) == {"untuned", *variants}
    assert len(ways) == 4 * len({"untuned", *variants}) * 2  # of two settings
    assert set(ways["setting"]) == {
        f"{labels}, no instruction, k = {NUMBERS[-1]}" for labels in ("relevant labels", "symbols")
    }
    compared = store.read_table("mart_variants").filter(benchmark="icl", measure="accuracy")
    assert set(compared["variant"]) == variants
    assert compared["setting"].n_unique() == 4 * len(NUMBERS)
