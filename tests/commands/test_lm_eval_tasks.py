"""The exported tasks: lm-evaluation-harness runs them and finds what our scorer finds."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import DataSide
from tiny_models import save_reading_model, save_tiny_model
from tokenizer_kinds import small_tokenizer

from symtune_pipeline.commands.export_lm_eval import export_tasks
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.classification import classify
from symtune_pipeline.evaluation.generation import generate
from symtune_pipeline.prompts.chat import chat_frame
from symtune_pipeline.prompts.text import classification_prompt, render
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import ALGORITHMIC_SUITE, CLASSIFICATION_SUITE

ICL = "symtune_icl_symbols_no_instruction"
FLIPPED = "symtune_flipped_100_flipped"
TASKS = {
    "symtune_icl_relevant_labels_instruction": 44,
    "symtune_icl_relevant_labels_no_instruction": 44,
    "symtune_icl_symbols_instruction": 44,
    ICL: 44,
    FLIPPED: 44,
    "symtune_flipped_zero_shot": 44,
    "symtune_list_functions_fresh": 8,
    "symtune_turing_concepts_fresh": 8,
}


@pytest.fixture(scope="module")
def exported(data_side: DataSide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tasks"
    assert export_tasks(data_side.store, folder) == TASKS
    return folder


@pytest.fixture(scope="module", params=["nothing", "begin"])
def model(
    tokenizer: Any, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """Its tokenizer puts nothing before a text, or a token."""
    folder = tmp_path_factory.mktemp("model")
    if request.param == "nothing":
        return save_reading_model(folder, deepcopy(tokenizer))
    begins = small_tokenizer("gpt2", "begin")
    save_tiny_model(folder, vocab_size=len(begins), max_position_embeddings=4_096)
    begins.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ran(exported: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the harness says of the whole group, run as its command runs it, offline."""
    return _evaluated(model, exported, tmp_path_factory.mktemp("cache"), "symtune")


def _evaluated(
    model: Path, tasks: Path, cache: Path, task: str, more: str = "", **options: Any
) -> dict[str, Any]:
    evaluator = pytest.importorskip("lm_eval.evaluator")
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache))
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        return evaluator.simple_evaluate(  # type: ignore[no-any-return]
            model="hf",
            model_args=f"pretrained={model},dtype=float32{more}",
            tasks=[task],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            batch_size=4,
            device="cpu",
            bootstrap_iters=0,
            **options,
        )


def _asked(data_side: DataSide, benchmark: str, setting: str) -> tuple[pl.DataFrame, list[str]]:
    """The rows of a setting, and the inputs by example."""
    suite = data_side.store.read_table("eval", name=CLASSIFICATION_SUITE.file)
    examples = data_side.store.read_table("int_evaluation_examples").sort("example")
    return suite.filter(benchmark=benchmark, setting=setting), examples["input"].to_list()


@pytest.mark.parametrize(
    ("task", "benchmark", "setting"),
    [
        (ICL, "icl", "symbols, no instruction"),
        ("symtune_icl_relevant_labels_instruction", "icl", "relevant labels, instruction"),
        (FLIPPED, "flipped", "100% flipped"),
        ("symtune_flipped_zero_shot", "flipped", "zero-shot"),
    ],
)
def test_the_harness_computes_the_log_probabilities_and_predictions_of_our_scorer(
    data_side: DataSide, model: Path, ran: dict[str, Any], task: str, benchmark: str, setting: str
) -> None:
    ours = classify(model, *_asked(data_side, benchmark, setting), EvaluationConfig())
    samples = sorted(ran["samples"][task], key=lambda sample: sample["doc_id"])
    theirs = [[logprob for logprob, _ in sample["filtered_resps"]] for sample in samples]
    for found, expected in zip(theirs, ours["logprobs"].to_list(), strict=True):
        assert found == pytest.approx(expected, abs=1e-3)
    assert [row.index(max(row)) for row in theirs] == ours["prediction"].to_list()
    assert [sample["acc"] for sample in samples] == ours["correct"].cast(pl.Float64).to_list()
    assert ran["results"][task]["acc,none"] == pytest.approx(ours["correct"].mean())
    assert 0 < ran["results"][task]["acc,none"] < 1


@pytest.mark.parametrize("benchmark", ["list_functions", "turing_concepts"])
def test_the_harness_generates_the_completions_that_we_match(
    data_side: DataSide, model: Path, ran: dict[str, Any], benchmark: str
) -> None:
    suite = data_side.store.read_table("eval", name=ALGORITHMIC_SUITE.file).filter(
        benchmark=benchmark
    )
    ours = generate(model, suite, EvaluationConfig())
    samples = sorted(
        ran["samples"][f"symtune_{benchmark}_fresh"], key=lambda sample: sample["doc_id"]
    )
    completions = ours["completion"].to_list()
    # Ours stops after as many tokens as the longest target has, theirs after as many characters.
    for sample, completion in zip(samples, completions, strict=True):
        (found,) = sample["filtered_resps"]
        assert found.startswith(completion.removesuffix("�")) and found == found.strip()
    assert [sample["doc"]["target"] for sample in samples] == suite["target"].to_list()
    assert [s["exact_match"] for s in samples] == ours["correct"].cast(pl.Float64).to_list()


def test_a_completion_counts_without_the_white_space_around_it(exported: Path) -> None:
    """A random model is never right, so the harness is asked about given completions."""
    tasks = pytest.importorskip("lm_eval.tasks")
    manager = tasks.TaskManager(include_path=str(exported), include_defaults=False)
    name = "symtune_list_functions_fresh"
    task = manager.load([name])["tasks"][name]
    document = task.test_docs()[0]
    target = document["target"]
    for completion, right in ((f" {target} ", 1), (target, 1), (f" {target}, 1", 0), ("", 0)):
        (ensemble,) = task._filters
        responses = [[completion]]
        for step in ensemble.filters:
            responses = list(step().apply(responses, [document]))
        assert task.process_results(document, responses)["exact_match"] == right, completion


def test_tasks_are_data_and_name_the_version_of_the_suites(
    exported: Path, data_side: DataSide
) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "README.md",
        "symtune.yaml",
        *(f"{task}.{suffix}" for task in TASKS for suffix in ("yaml", "jsonl")),
    }
    version = data_side.store.manifest("eval").version
    for path in exported.glob("*.yaml"):
        settings = yaml.safe_load(path.read_text())  # no tag such as !function
        assert settings["metadata"]["version"] == version
    assert yaml.safe_load((exported / "symtune.yaml").read_text())["task"] == list(TASKS)
    readme = (exported / "README.md").read_text()
    assert "add_bos_token=" not in readme
    assert str(exported) in readme and version in readme
    assert "do not apply a chat template" in readme and "--apply_chat_template" not in readme


def test_where_models_are_asked_in_a_chat_template_the_harness_is_to_apply_it(
    data_side: DataSide, tmp_path: Path
) -> None:
    for chat in (False, True):
        export_tasks(data_side.store, tmp_path / str(chat), chat)
    plain, asked = (
        {p.name: p.read_text().replace(str(folder), "") for p in folder.iterdir()}
        for folder in (tmp_path / "False", tmp_path / "True")
    )
    readme = asked.pop("README.md")
    assert "--tasks symtune --apply_chat_template\n" in readme
    assert "dtype=float32,add_bos_token=False " in readme
    del plain["README.md"]
    assert asked == plain  # the message is the prompt


# A template that writes the token that begins a text, and one that leaves it out.
@pytest.mark.parametrize("begins", ["{{ bos_token }}", ""])
def test_a_run_with_the_readmes_options_asks_our_messages_byte_for_byte(
    data_side: DataSide, tmp_path: Path, begins: str
) -> None:
    pytest.importorskip("lm_eval.evaluator", reason="needs lm-evaluation-harness")
    tokenizer = deepcopy(small_tokenizer("gpt2", "begin"))
    tokenizer.chat_template = (
        f"{begins}{{% for m in messages %}}<|im_end|>{{{{ m['role'] }}}}\n{{{{ m['content'] }}}}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    model, tasks = tmp_path / "model", tmp_path / "tasks"
    save_tiny_model(model, vocab_size=len(tokenizer), max_position_embeddings=4_096)
    tokenizer.save_pretrained(model)
    export_tasks(data_side.store, tasks, chat=True)
    more = ",add_bos_token=False"
    found = _evaluated(model, tasks, tmp_path / "cache", ICL, more, apply_chat_template=True)
    suite, texts = _asked(data_side, "icl", "symbols, no instruction")
    predicted = classify(model, suite, texts, EvaluationConfig(chat_template=True))
    opening, closing = chat_frame(tokenizer)
    samples = sorted(found["samples"][ICL], key=lambda sample: sample["doc_id"])
    for row, logprobs, sample in zip(suite.to_dicts(), predicted["logprobs"], samples, strict=True):
        prompt = f"{opening}{render(classification_prompt(row, texts))}{closing}"
        asked = [tuple(arguments) for arguments in sample["arguments"]]
        assert asked == [(prompt, label) for label in row["labels"]]
        theirs = np.array([logprob for ((logprob, _),) in sample["resps"]])
        ours = logprobs.to_numpy()
        # The harness moves the line's end before the answer to each label, which adds the same to all.
        assert theirs - theirs[0] == pytest.approx(ours - ours[0], abs=1e-4)
        assert theirs[0] < ours[0]


def test_an_earlier_export_is_replaced_and_anything_else_left_alone(
    data_side: DataSide, tmp_path: Path
) -> None:
    folder = tmp_path / "tasks"
    export_tasks(data_side.store, folder)
    (folder / f"{ICL}.jsonl").write_text("")
    export_tasks(data_side.store, folder)
    assert len((folder / f"{ICL}.jsonl").read_text().splitlines()) == 44
    first = json.loads((folder / f"{ICL}.jsonl").read_text().splitlines()[0])
    assert set(first) == {"prompt", "labels", "target", "dataset", "context"}
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than an earlier export"):
        export_tasks(data_side.store, folder)
    assert (folder / "notes.txt").read_text() == "mine"
