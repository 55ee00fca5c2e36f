"""The whole graph for real, with the tiny model: run, repeated, damaged, killed and misused."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from conftest import ROOT, SYMTUNE, Ended, Home
from graph import Here, materialise

from symtune_pipeline.evaluation.asked import are_to, questions
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.files import TABLE
from symtune_pipeline.report.settings import kept_settings
from symtune_pipeline.tables import CLASSIFICATION_SUITE

RECORD_KEYS = {"benchmark", "setting", "model", "variant", "n", "accuracy", "low", "high", "chance"}
EVALUATION = {
    *("eval", "eval_icl", "eval_flipped", "eval_algorithmic", "eval_language", "eval_finetuned"),
    *("int_outcomes", "int_scores", "mart_calibrated", "mart_alignment", "mart_language"),
    *("mart_icl", "mart_flipped", "mart_algorithmic", "mart_summary", "mart_scaling"),
    *("mart_variants", "mart_seeds", "mart_exemplars", "mart_finetuned", "eval_report"),
    *("mart_reliability", "mart_choices", "mart_confusion"),
}


@pytest.fixture
def home(smoke_run: tuple[Home, Ended], tmp_path: Path) -> Home:
    """A copy of the first run's home, to change."""
    return smoke_run[0].copy(tmp_path)


@pytest.fixture(scope="module")
def assets() -> set[str]:
    """The names of all assets of the graph."""
    program = (
        "from definitions import defs\n"
        "for key in defs.resolve_asset_graph().get_all_asset_keys(): print(*key.path)"
    )
    env = os.environ | {"SYMTUNE_EXPERIMENT": "smoke"}
    command = [sys.executable, "-c", program]
    listed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def unchanged(ended: Ended) -> set[str]:
    return set(re.findall(r"(\w+): up to date", ended.stdout + ended.stderr))


def made(ended: Ended) -> set[str]:
    return set(re.findall(r"(\w+): (?:[\d,]+ rows, )?made in", ended.stdout + ended.stderr))


def altered_experiment(folder: Path, section: str = "evaluation", **altered: int) -> str:
    """The smoke experiment with other settings in a section, under the same name."""
    import yaml

    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    settings[section] |= altered
    path = folder / "smoke.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(path)


# --- a run --------------------------------------------------------------------------------------


def test_a_run_ends_with_the_table_the_path_of_the_report_and_what_to_do_next(
    smoke_run: tuple[Home, Ended],
) -> None:
    home, ended = smoke_run
    assert ended.returncode == 0, ended.stderr
    text, _, after = ended.stdout.partition("\nReport: ")
    for expected in ("untuned", "tuned", "chance", "symbols, no instruction", "Flipped labels"):
        assert expected in text
    assert re.search(
        r"^Tuning of micro: \d+ s for [\d,]+ tokens in \d+ steps, ", text, re.MULTILINE
    )
    page, _, *steps = after.splitlines()
    assert page == str(home.store.folder("eval_report") / "index.html")
    assert [step.strip().split("  ")[0] for step in steps] == [
        "symtune report --open --experiment smoke",
        "SYMTUNE_EXPERIMENT=smoke dg dev",
        "symtune init mine.yaml --data my.csv",
    ]


def test_every_asset_is_made_and_kept(smoke_run: tuple[Home, Ended], assets: set[str]) -> None:
    home, ended = smoke_run
    assert made(ended) == assets
    for name in assets:
        (partition,) = home.store.partitions(name) or [None]
        assert home.store.folder(name, partition).is_dir()
    assert not list(home.store.root.rglob(".writing*"))


def numbers(home: Home, asset: str) -> dict[str, float]:
    """The numbers among the metadata of an asset's last run that are results."""
    with dg.DagsterInstance.from_config(str(home.history)) as instance:
        record = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert record and record.asset_materialization
    metadata = record.asset_materialization.metadata
    return {
        name: value.value
        for name, value in metadata.items()
        if isinstance(value, dg.FloatMetadataValue) and ": " in name
    }


def test_a_run_says_which_experiment_it_was_of(home: Home) -> None:
    with dg.DagsterInstance.from_config(str(home.history)) as instance:
        (run,) = instance.get_runs()
    assert run.tags["experiment"] == "smoke"


def test_results_are_numbers_of_which_dagster_keeps_a_history(home: Home) -> None:
    """Of every setting, by whatever asset; the predictions' own counts agree with the mart's."""
    summary = home.store.read_table("mart_summary")
    expected = {
        f"{row['setting']}: accuracy {row['variant']}": row["accuracy"]
        for row in summary.filter(pl.col("benchmark") == "icl").iter_rows(named=True)
    }
    gains = summary.filter(pl.col("benchmark") == "icl", pl.col("variant") == "tuned")
    expected |= {f"{r['setting']}: gain in points": 100 * r["gain"] for r in gains.to_dicts()}
    assert numbers(home, "eval_icl") == pytest.approx(expected, abs=1e-4)
    parts = [numbers(home, f"eval_{name}") for name in ("icl", "flipped", "algorithmic")]
    whole = {name: value for part in parts for name, value in part.items()}
    assert len(whole) == 3 * len(summary.filter(pl.col("variant") == "tuned"))
    assert numbers(home, "mart_summary") == pytest.approx(whole, abs=1e-4)
    again = home.run("--select", "key:eval_icl or key:mart_summary")
    assert unchanged(again) == {"eval_icl", "mart_summary"}
    assert numbers(home, "eval_icl") == pytest.approx(expected, abs=1e-4), "no gap in the history"


def test_the_report_has_a_page_pictures_and_a_summary(smoke_run: tuple[Home, Ended]) -> None:
    home, _ = smoke_run
    folder = home.store.folder("eval_report")
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    pictures = list(folder.glob("*.png"))
    assert pictures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)

    assert kept_settings(folder) == {"tuned": load_experiment("smoke").model_dump(mode="json")}
    for key in ("eval_icl", "eval_flipped"):
        asked = questions(home.store, CLASSIFICATION_SUITE, "int_evaluation_examples")
        assert are_to(home.store.folder(key, "micro"), asked)

    records = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    benchmarks = {"icl": 4, "flipped": 1, "list_functions": 1, "turing_concepts": 1}
    for variant, more in (("untuned", set()), ("tuned", {"gain", "p"})):
        mine = [record for record in records if record["variant"] == variant]
        found = [record["benchmark"] for record in mine]
        assert {name: found.count(name) for name in set(found)} == benchmarks
        for record in mine:
            assert set(record) >= RECORD_KEYS | more
            assert 0 <= record["low"] <= record["accuracy"] <= record["high"] <= 1
    assert len(records) == 2 * sum(benchmarks.values())


# --- another run --------------------------------------------------------------------------------


def test_a_second_run_recognises_everything_and_changes_nothing(
    smoke_run: tuple[Home, Ended], home: Home, assets: set[str]
) -> None:
    first, ended = smoke_run
    before = home.files()
    again = home.run()
    assert again.returncode == 0, again.stderr
    assert unchanged(again) == assets
    assert made(again) == set()
    assert home.files() == before
    assert again.stdout == ended.stdout.replace(str(first.folder), str(home.folder))


def test_a_log_of_tuning_that_is_lost_is_made_again_with_the_model(home: Home) -> None:
    """Nothing else makes it."""
    experiment, root = load_experiment("smoke"), home.store.root
    shutil.rmtree(root / "tuning_log")
    shutil.rmtree(root / "eval_report")
    (failed,) = materialise(experiment, root, ["eval_report"]).get_step_failure_events()
    told = failed.step_failure_data.user_failure_data
    assert told and str(told.description).endswith(
        "materialise 'symbol_tuned_model' for partition 'micro', which makes it."
    )
    for _ in range(2):
        tuned = materialise(experiment, root, ["symbol_tuned_model"], "micro", Here())
        assert tuned.success
        assert not home.store.read_table("tuning_log", "micro").is_empty()
        (table,) = (root / "tuning_log").rglob(TABLE)
        table.write_bytes(table.read_bytes()[:-1])


def test_eval_star_runs_the_evaluation_and_nothing_else(home: Home, tmp_path: Path) -> None:
    before = home.files()
    fewer = altered_experiment(tmp_path, queries=3)
    ended = home.dagster("--select", "eval*", "--partition", "micro", experiment=fewer)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # Other queries change the loss of no text, and none is asked after tuning on its exemplars.
    same = {"mart_language", "mart_finetuned"}
    assert made(ended) == EVALUATION - same
    assert unchanged(ended) == same
    after = home.files()
    changed = {
        path.split("/")[0]
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    }
    # Of the suites those are asked again whose queries have changed.
    assert changed - EVALUATION == {"predictions_eval_icl", "predictions_eval_flipped"}


def test_one_dataset_can_be_loaded_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ended = home.dagster("--select", "raw_hotel_reviews")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert home.store.artifacts() == [("raw_hotel_reviews", None)]
    assert home.store.read_table("raw_hotel_reviews")["dataset"].unique().to_list() == [
        "hotel_reviews"
    ]


@pytest.mark.slow
@pytest.mark.long
def test_a_run_killed_at_a_random_moment_and_started_again_ends_in_the_same_report(
    smoke_run: tuple[Home, Ended], tmp_path: Path
) -> None:
    whole, ended = smoke_run
    home = Home(tmp_path)
    # The model is taken over, since most of the time and few of the moments are spent on it.
    shutil.copytree(whole.store.root / "base_model", home.store.root / "base_model")
    lines = sum("micro model" not in line for line in ended.stderr.splitlines())
    moment = random.randrange(1, lines - 5)

    command = [SYMTUNE, "run", "--experiment", "smoke"]
    job = subprocess.Popen(
        command,
        cwd=ROOT,
        env=home.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stderr is not None
    for _ in range(moment):
        job.stderr.readline()
    time.sleep(random.uniform(0, 0.3))
    job.kill()  # only it: a job that it launched goes on for a while
    job.stderr.close()
    assert job.wait() == -9, f"had ended before line {moment}"

    again = home.run()
    assert again.returncode == 0, f"killed at line {moment}: {again.stderr}"
    assert home.report() == whole.report(), f"killed at line {moment}"
    assert not list(home.store.root.rglob(".writing*"))


# --- misuse -------------------------------------------------------------------------------------


def test_a_damaged_file_is_one_sentence_and_is_made_again_when_asked_for(
    home: Home, tmp_path: Path
) -> None:
    whole = {path: digest for path, (digest, _) in home.files().items()}
    damaged = home.store.folder("int_evaluation_examples") / TABLE
    with damaged.open("ab") as file:
        file.write(b"!")
    fewer = altered_experiment(tmp_path, queries=3)
    ended = home.dagster("--select", "eval", experiment=fewer)
    assert ended.returncode != 0
    sentence = (
        f"File {damaged} does not match its manifest; materialise 'int_evaluation_examples' again."
    )
    assert sentence in ended.stdout + ended.stderr

    again = home.dagster("--select", "int_evaluation_examples")
    assert again.returncode == 0, again.stdout + again.stderr
    assert made(again) == {"int_evaluation_examples"}
    assert {path: digest for path, (digest, _) in home.files().items()} == whole


def test_a_user_error_in_a_step_is_one_sentence(home: Home, tmp_path: Path) -> None:
    before = home.files()
    ended = home.run(experiment=altered_experiment(tmp_path, exemplars_per_class=100))
    assert ended.returncode == 1
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(
        r"error: eval: Dataset '\w+' has \d+ exemplars of its rarest class;"
        r" lower evaluation\.exemplars_per_class from 100 or leave it out\.",
        error,
    )
    assert "Traceback" not in ended.stderr
    assert home.files() == before


def test_symbols_can_differ_in_the_first_token_of_every_model(home: Home, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    before = home.store.read_table("tuning_mixture")
    differing = altered_experiment(tmp_path, "mixture", distinct_first_token=1)
    ended = home.dagster("--select", "tuning_mixture", experiment=differing)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert made(ended) == {"tuning_mixture"}
    after = home.store.read_table("tuning_mixture")
    assert after.drop("labels").equals(before.drop("labels"))
    tokenizer = AutoTokenizer.from_pretrained(home.store.folder("base_model", "micro"))
    for labels in after["labels"]:
        assert len({tokenizer.encode(f" {label}")[0] for label in labels}) == len(labels)

    shutil.rmtree(home.store.root / "base_model")
    again = home.dagster("--select", "tuning_mixture", experiment=differing)
    assert again.returncode != 0
    assert (
        "base_model holds nothing yet; materialise 'base_model' first."
        in again.stdout + again.stderr
    )


def test_fewer_tuning_sets_than_asked_for_are_one_sentence(home: Home, tmp_path: Path) -> None:
    """The experiment names enough; of a public source, some may be missing."""
    examples = home.store.read_table("int_tuning_examples")
    kept = examples["dataset"].unique().sort()[:3]
    made_from = home.store.manifest("int_tuning_examples").made_from
    with home.store.writing("int_tuning_examples", None, made_from) as folder:
        examples.filter(pl.col("dataset").is_in(kept)).write_parquet(folder / TABLE)
    five = altered_experiment(tmp_path, "mixture", sets=5)
    ended = home.dagster("--select", "tuning_mixture", experiment=five)
    assert ended.returncode != 0
    sentence = (
        "mixture.sets is 5, above the 3 sets that are there; lower it, or bring those that are"
    )
    assert sentence in ended.stdout + ended.stderr


def test_an_evaluation_symbol_that_the_tokenizer_makes_a_tuning_symbol_blocks_tuning(
    home: Home,
) -> None:
    pool = home.store.read_table("symbol_pool")
    tuning = pool.filter(split="tuning", category="word")["symbol"][0]
    copy = pl.DataFrame({"symbol": [tuning], "category": ["word"], "split": ["evaluation"]})
    with home.store.writing("symbol_pool") as folder:
        pl.concat([pool, copy]).write_parquet(folder / TABLE)

    for state in ("made", "up to date"):
        result = materialise(load_experiment("smoke"), home.store.root, ["packed_mixture"], "micro")
        (check,) = [c for c in result.get_asset_check_evaluations() if not c.passed]
        assert (check.check_name, check.blocking) == ("symbols_disjoint_in_tokens", True), state
        assert repr(tuning) in (check.description or "")


def test_nothing_is_packed_from_a_mixture_that_holds_an_evaluation_symbol(home: Home) -> None:
    """The guard's check blocks: the step after it, which leads to tuning, does not run."""
    kept = pl.col("split") == "evaluation"
    symbol = home.store.read_table("symbol_pool").filter(kept)["symbol"][0]
    mixture = home.store.read_table("tuning_mixture")
    leaked = mixture.with_columns(labels=pl.col("labels").list.eval(pl.lit(symbol)))
    with home.store.writing("tuning_mixture") as folder:
        leaked.write_parquet(folder / TABLE)

    guarded = ["int_contamination", "packed_mixture"]
    result = materialise(load_experiment("smoke"), home.store.root, guarded, "micro")
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.blocking) == ("empty", False, True)
    assert symbol in (check.description or "")
    assert not result.asset_materializations_for_node("packed_mixture")
