"""Code versions change with what could change an asset's content, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
import json, definitions
graph = definitions.defs.resolve_asset_graph()
print(json.dumps({node.key.to_user_string(): node.code_version for node in graph.asset_nodes}))
"""
PARTS = ("symtune_pipeline", "assets", "resources", "dbt_like_sql", "experiments", "launchers")
SQL = ("stg_", "int_", "mart_")
Stale = Callable[[str, str, str], set[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, to change."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy(ROOT / "definitions.py", folder)
    settings = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    settings["mixture"]["instructed_share"] = 0.5
    (folder / "instructed.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def versions(project: Path, experiment: str = "smoke") -> dict[str, str]:
    """The code version of every asset, as a fresh process sees it."""
    environment = os.environ | {"PYTHONPATH": str(project), "SYMTUNE_EXPERIMENT": experiment}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=project, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout)
    return found


@pytest.fixture(scope="module")
def before(project: Path) -> dict[str, dict[str, str]]:
    """The versions of the unchanged project, by experiment."""
    return {name: versions(project, name) for name in ("smoke", "instructed.yaml")}


@pytest.fixture
def stale(project: Path, before: dict[str, dict[str, str]]) -> Stale:
    """Which assets are stale where a text of a file is replaced, which must stand there."""

    def changed(file: str, old: str, new: str, experiment: str = "smoke") -> set[str]:
        path = project / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} does not hold {old!r}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        try:
            now, then = versions(project, experiment), before[experiment]
        finally:
            path.write_text(text, encoding="utf-8")
        return {name for name, version in now.items() if version != then.get(name)}

    return changed


def test_an_instruction_makes_the_suites_stale_and_the_blocks_where_prompts_show_it(
    stale: Callable[..., set[str]],
) -> None:
    file, old = "symtune_pipeline/catalog/generated.yaml", "instruction: "
    shown = stale(file, old, f"{old}Please. ", "instructed.yaml")
    assert shown >= {"eval", "packed_mixture", "raw_hotel_reviews"}
    hidden = stale(file, old, f"{old}Please. ")
    assert "eval" in hidden
    assert "packed_mixture" not in hidden


def test_a_chat_template_makes_stale_what_holds_or_answers_prompts(project: Path) -> None:
    settings = yaml.safe_load((project / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    settings["models"] = ["smollm2-135m"]
    made = {
        "packed_mixture", "eval", "eval_icl", "eval_flipped", "eval_algorithmic", "eval_finetuned",
        "eval_report",
    }  # fmt: skip
    for distinct in (False, True):
        settings["mixture"]["distinct_first_token"] = distinct
        found = []
        for chat in (False, True):
            settings["evaluation"]["chat_template"] = chat
            (project / "chat.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
            found.append(versions(project, "chat.yaml"))
        changed = {name for name, version in found[0].items() if version != found[1][name]}
        assert changed == made | ({"tuning_mixture"} if distinct else set())


def test_another_model_in_the_experiment_makes_only_the_report_stale(project: Path) -> None:
    """What was made of the first model stays, unless it was drawn by looking at all of them."""
    settings = yaml.safe_load((project / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    for distinct in (False, True):
        settings["mixture"]["distinct_first_token"] = distinct
        found = []
        for models in (["micro"], ["micro", "smollm2-135m"]):
            settings["models"] = models
            (project / "models.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
            found.append(versions(project, "models.yaml"))
        changed = {name for name, version in found[0].items() if version != found[1][name]}
        assert changed == {"eval_report"} | ({"tuning_mixture"} if distinct else set())


def test_the_precision_of_answers_makes_predictions_stale(project: Path) -> None:
    settings = yaml.safe_load((project / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    found = []
    for precision in ("auto", "fp32"):
        settings["evaluation"]["precision"] = precision
        (project / "precision.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        found.append(versions(project, "precision.yaml"))
    changed = {name for name, version in found[0].items() if version != found[1][name]}
    # `eval` takes all settings of its section, and is made in a second.
    answers = {"eval_icl", "eval_flipped", "eval_algorithmic", "eval_language", "eval_finetuned"}
    assert changed == {"eval", *answers, "eval_report"}


def test_asking_by_channel_makes_the_answers_of_classification_stale(project: Path) -> None:
    settings = yaml.safe_load((project / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    found = []
    for channel in (False, True):
        settings["evaluation"]["channel"] = channel
        (project / "channel.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        found.append(versions(project, "channel.yaml"))
    changed = {name for name, version in found[0].items() if version != found[1][name]}
    assert changed == {"eval", "eval_icl", "eval_flipped", "eval_report"}


def test_what_decides_precision_and_device_makes_predictions_stale(stale: Stale) -> None:
    assert stale("symtune_pipeline/models/device.py", "float32", "float64") >= {
        "eval_icl",
        "eval_flipped",
    }


def test_how_answers_are_kept_and_merged_makes_all_predictions_stale(stale: Stale) -> None:
    found = stale("symtune_pipeline/evaluation/answers.py", "LOOK = 10.0", "LOOK = 9.0")
    assert found == {
        "eval_icl", "eval_flipped", "eval_algorithmic", "eval_language", "eval_finetuned",
    }  # fmt: skip


def test_attention_makes_scores_and_the_tuned_model_stale_and_nothing_generated(
    stale: Stale,
) -> None:
    found = stale("symtune_pipeline/models/attention.py", "SHAPE = 64", "SHAPE = 32")
    assert found == {
        "eval_icl", "eval_flipped", "eval_language", "eval_finetuned", "symbol_tuned_model",
    }  # fmt: skip


def test_how_many_symbols_are_for_tuning_makes_the_pool_stale(stale: Stale) -> None:
    found = stale(
        "symtune_pipeline/tables.py", "PER_CATEGORY: Final = 10_000", "PER_CATEGORY: Final = 9_000"
    )
    assert "symbol_pool" in found
    assert not found & {"base_model", "symbol_tuned_model"}


def test_adapters_on_the_exemplars_are_in_the_version_and_the_defaults_of_others_are_not_theirs(
    stale: Stale,
) -> None:
    adapters = "symtune_pipeline/evaluation/finetuned.py"
    assert stale(adapters, "rank=16", "rank=8") == {"eval_finetuned"}
    assert stale("symtune_pipeline/sections.py", "Le(100_000)] = 16", "Le(100_000)] = 8") == set()


SPOKEN = (
    ("prompts/mixture.py", "cannot make a prompt", "is too small for a prompt"),
    ("evaluation/suites.py", "exemplars of its rarest class", "examples of its smallest class"),
    ("prompts/blocks.py", '"""The prompts', '"""All prompts'),
    ("models/attention.py", "SHAPE = 64  # ", "SHAPE = 64  # changed: "),
    ("progress.py", "left", "to go"),
    ("tuning/model_card.md", "# ", "# A "),
    ("tables.py", "Number of the prompt.", "Its number."),
    ("catalog/gpus.yaml", "dollars_per_hour: [", "dollars_per_hour: [0.0"),
)


def test_a_message_a_comment_a_card_or_a_price_makes_nothing_stale(
    project: Path, before: dict[str, dict[str, str]]
) -> None:
    library = project / "symtune_pipeline"
    texts = {file: (library / file).read_text(encoding="utf-8") for file, _, _ in SPOKEN}
    for file, old, new in SPOKEN:
        assert old in texts[file], f"{file} does not hold {old!r}"
        (library / file).write_text(texts[file].replace(old, new, 1), encoding="utf-8")
    try:
        assert versions(project) == before["smoke"]
    finally:
        for file, text in texts.items():
            (library / file).write_text(text, encoding="utf-8")


def test_the_page_makes_the_report_stale(stale: Stale) -> None:
    for file in ("page.html", "paper.yaml", "answers.js"):
        text = (ROOT / "symtune_pipeline" / "report" / file).read_text(encoding="utf-8")
        line = text.splitlines()[0]
        assert stale(f"symtune_pipeline/report/{file}", line, f"{line} ") == {"eval_report"}, file


def test_a_sql_model_makes_its_own_table_stale_and_statistics_all(stale: Stale) -> None:
    sql = "dbt_like_sql/staging/stg_examples.sql"
    assert stale(sql, "SELECT", "SELECT /* all */") == {"stg_examples"}
    found = stale(
        "symtune_pipeline/sql/statistics.py", "RESAMPLES: Final = 10_000", "RESAMPLES: Final = 9"
    )
    assert "int_scores" in found and all(name.startswith(SQL) for name in found)


def test_a_benchmark_makes_the_suites_stale_and_no_model(project: Path, stale: Stale) -> None:
    modules = project / "symtune_pipeline" / "evaluation" / "benchmarks"
    shutil.copy(modules / "turing_concepts.py", modules / "words.py")
    entry = '"turing_concepts": Benchmark('
    more = f'"words": Benchmark("Words", "algorithmic"),\n    {entry}'
    try:
        found = stale("symtune_pipeline/tables.py", entry, more)
    finally:
        (modules / "words.py").unlink()
    assert "eval" in found
    assert not found & {"base_model", "tuning_mixture", "packed_mixture", "symbol_tuned_model"}


def test_a_function_of_lists_makes_the_suites_stale(stale: Stale) -> None:
    functions = "symtune_pipeline/evaluation/benchmarks/functions_of_lists.py"
    assert stale(functions, "8 in place of element 2", "8 as element 2") == {"eval"}


def test_the_grammar_of_a_set_makes_generated_sets_stale(stale: Stale) -> None:
    found = stale("symtune_pipeline/sources/generated.py", "TRIES = 500", "TRIES = 400")
    # `micro` is made from the generated sets.
    assert found and all(name.startswith("raw_") for name in found - {"base_model"})


@pytest.mark.parametrize(
    ("section", "setting", "value", "changed"),
    [
        ("tuning", "epochs", 2, {"symbol_tuned_model"}),
        ("tuning", "block_tokens", 512, {"packed_mixture", "symbol_tuned_model"}),
        ("mixture", "prompts", 61, {"tuning_mixture"}),
        ("evaluation", "queries", 5, {"eval"}),
    ],
)
def test_a_setting_makes_stale_what_uses_it(
    project: Path,
    before: dict[str, dict[str, str]],
    section: str,
    setting: str,
    value: int,
    changed: set[str],
) -> None:
    settings = yaml.safe_load((project / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    settings[section][setting] = value
    (project / "changed.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    now = versions(project, "changed.yaml")
    found = {name for name, version in now.items() if version != before["smoke"][name]}
    assert found == {*changed, "eval_report"}


def test_how_checkpoints_are_kept_makes_nothing_stale(
    project: Path, before: dict[str, dict[str, str]]
) -> None:
    settings = yaml.safe_load((project / "experiments" / "smoke.yaml").read_text(encoding="utf-8"))
    settings["tuning"] |= {"checkpoint_seconds": 600, "keep_checkpoints": 5}
    (project / "pace.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    now = versions(project, "pace.yaml")
    # The report has the experiment's name, which is the file's.
    assert {name for name, version in now.items() if version != before["smoke"][name]} <= {
        "eval_report"
    }
