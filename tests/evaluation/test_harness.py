"""The model `symtune` of lm-evaluation-harness gives the numbers of the harness's own `hf`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from test_scorer import random_tokens
from tiny_models import reference_logprobs, reference_model, save_tiny_model
from tokenizer_kinds import INPUTS, small_tokenizer

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.harness.sharing import Pair, alike, score_pairs
from symtune_pipeline.models.loading import load_model

HARNESS = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="needs lm-evaluation-harness (the extra lm-eval)"
)
RANKED, DRAWN, ROLLED, CONTINUED = "tiny_ranked", "tiny_drawn", "tiny_rolled", "tiny_continued"
CHOICES = ["a good day", "a bad day", "no day", "good"]


# --- what is shared -------------------------------------------------------------------------------


def some_pairs() -> list[Pair]:
    """Contexts of two beginnings and one of its own, each with several continuations, some twice."""
    rng = random.Random(0)
    beginnings = [random_tokens(rng, 20, 20), random_tokens(rng, 30, 30)]
    contexts = [beginnings[i % 2] + random_tokens(rng, 1, 8) for i in range(8)]
    contexts += [random_tokens(rng, 3, 3), beginnings[0]]  # one is another's beginning
    continuations = [random_tokens(rng, 1, 4) for _ in range(3)]
    pairs = [(context, each) for context in contexts for each in continuations]
    rng.shuffle(pairs)
    return [*pairs, pairs[0]]


@pytest.mark.parametrize(("architecture", "more"), [("llama", {}), ("gptj", {"rotary_dim": 4})])
def test_pairs_that_share_beginnings_score_as_each_alone(
    architecture: str, more: dict[str, Any], tmp_path: Path
) -> None:
    save_tiny_model(tmp_path, architecture, **more)
    reference, pairs = reference_model(tmp_path), some_pairs()
    context = pairs[0][0]
    with torch.inference_mode():
        likeliest = int(reference(torch.tensor([context])).logits[0, -1].argmax())
        pairs.append((context, [likeliest]))
        expected = [
            float(reference_logprobs(reference, [*before, *after])[-len(after) :].sum())
            for before, after in pairs
        ]
    told: list[int] = []
    model = load_model(tmp_path, torch.float32, "cpu").eval()
    scored = score_pairs(model, pairs, progress=told.append)
    assert [logprob for logprob, _ in scored] == pytest.approx(expected, abs=1e-4)
    assert scored[-1][1], "the likeliest token would be generated"
    assert not all(greedy for _, greedy in scored)
    assert told == sorted(told) and told[-1] == len(pairs)


def test_what_contexts_begin_with_alike_runs_once(tmp_path: Path) -> None:
    sizes: list[int] = []
    model = load_model(save_tiny_model(tmp_path), torch.float32, "cpu").eval()
    model.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    pairs = some_pairs()
    score_pairs(model, pairs)
    assert sum(sizes) < sum(len(before) + len(after) for before, after in pairs) / 5


def test_contexts_are_together_where_they_share_half() -> None:
    few, many = (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 7, 8)
    contexts = sorted([few, (*few, 9), (1, 7, 7, 7), many, (2,)])
    assert list(alike(contexts)) == [[few, many, (*few, 9)], [(1, 7, 7, 7)], [(2,)]]
    assert list(alike([])) == []


# --- in the harness -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks on local data: few-shot with choices of several tokens, whole texts, generation."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = random.Random(0)
    for split, count in (("train", 8), ("test", 12)):
        rows = [{"text": rng.choice(INPUTS), "target": rng.randrange(4)} for _ in range(count)]
        lines = (json.dumps(row | {"choices": CHOICES}) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines))
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    common: dict[str, Any] = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test",
    }  # fmt: skip
    ranked = {
        "output_type": "multiple_choice", "fewshot_split": "train", "num_fewshot": 3,
        "doc_to_text": "Text: {{text}}\nDay:", "doc_to_choice": "choices", "doc_to_target": "target",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    generated = {
        "output_type": "generate_until", "doc_to_text": "Text: {{text}}\nDay:", "doc_to_target": "text",
        "generation_kwargs": {"until": ["a", "\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    rolled = {
        "output_type": "loglikelihood_rolling", "doc_to_text": "",
        "doc_to_target": "{{ (text + ' ') * 12 }}",
        "metric_list": [{"metric": "word_perplexity"}],
    }  # fmt: skip
    first = {"fewshot_config": {"sampler": "first_n"}}  # the same for all
    for name, settings in (
        (RANKED, ranked | first), (DRAWN, ranked), (CONTINUED, generated), (ROLLED, rolled),
    ):  # fmt: skip
        text = yaml.safe_dump({"task": name} | common | settings)
        (folder / f"{name}.yaml").write_text(text)
    return folder


# A context of 48 tokens is below that of most prompts, which both then cut at their start.
@pytest.fixture(scope="module", params=[("llama", 2_048), ("gptj", 2_048), ("llama", 48)], ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture, longest = request.param
    tokenizer = small_tokenizer("llama3" if architecture == "llama" else "metaspace", "begin")
    more = {"rotary_dim": 4} if architecture == "gptj" else {}
    folder = tmp_path_factory.mktemp(architecture)
    room = {"vocab_size": len(tokenizer), "max_position_embeddings": longest}
    save_tiny_model(folder, architecture, **room, **more)
    tokenizer.save_pretrained(folder)
    return folder


def _run(model: str, folder: Path, tasks: Path, names: list[str], **more: Any) -> dict[str, Any]:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    import symtune_pipeline.evaluation.harness.model  # noqa: F401  # registers it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tasks / "cache"))
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        found: dict[str, Any] = simple_evaluate(
            model=model, model_args=f"pretrained={folder},dtype=float32", tasks=names,
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            batch_size=4, device="cpu", bootstrap_iters=0, **more,
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def ran(folder: Path, tasks: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What the harness finds with our model, and with its own."""
    names = [RANKED, DRAWN, ROLLED, CONTINUED]
    yield _run("symtune", folder, tasks, names), _run("hf", folder, tasks, names)


def _responses(found: dict[str, Any], task: str) -> list[Any]:
    """What was answered to each request, in their order."""
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return [response for sample in samples for (response,) in sample["resps"]]


@HARNESS
@pytest.mark.parametrize("task", [RANKED, DRAWN])
def test_choices_have_the_log_likelihoods_and_accuracies_of_the_harness(
    ran: tuple[dict[str, Any], dict[str, Any]], task: str
) -> None:
    ours, theirs = (_responses(found, task) for found in ran)
    assert len(ours) == 12 * len(CHOICES)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-4)
        assert mine[1] == other[1]
    for metric in ("acc,none", "acc_norm,none"):
        assert ran[0]["results"][task][metric] == ran[1]["results"][task][metric]


@HARNESS
def test_whole_texts_have_the_log_likelihoods_of_the_harness(
    ran: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    ours, theirs = (_responses(found, ROLLED) for found in ran)
    assert ours == pytest.approx(theirs, abs=1e-4)


@HARNESS
def test_texts_are_continued_as_in_the_harness(
    ran: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    ours, theirs = (_responses(found, CONTINUED) for found in ran)
    assert ours == theirs
    assert any(ours) and not any("a" in text for text in ours)


@HARNESS
def test_messages_are_written_and_continued_as_in_the_harness(tasks: Path, tmp_path: Path) -> None:
    tokenizer = small_tokenizer("gpt2", "begin")
    save_tiny_model(tmp_path, vocab_size=len(tokenizer), max_position_embeddings=2_048)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    )
    ours, theirs = (
        _run(
            model, tmp_path, tasks, [RANKED], apply_chat_template=True, system_instruction="Choose."
        )
        for model in ("symtune", "hf")
    )
    asked = [
        [sample["arguments"] for sample in found["samples"][RANKED]] for found in (ours, theirs)
    ]
    assert asked[0] == asked[1] and "<s>system: Choose." in str(asked[0])
    for mine, other in zip(*(_responses(f, RANKED) for f in (ours, theirs)), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-4)


@HARNESS
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"do_sample": True, "temperature": 0.7}, "asks for samples (do_sample or a temperature)"),
        ({"temperature": 0.7}, "asks for samples (do_sample or a temperature)"),
        ({"num_beams": 4}, "asks to generate with num_beams=4"),
        ({"max_gen_toks": 4_096}, "asks for 4096 new tokens"),
    ],
)
def test_what_is_not_greedy_is_one_sentence(
    settings: dict[str, Any], says: str, folder: Path
) -> None:
    from lm_eval.api.instance import Instance

    from symtune_pipeline.evaluation.harness.model import SymtuneLM

    model = SymtuneLM(pretrained=str(folder))
    asked = Instance("generate_until", {}, ("Text:", {"until": ["\n"], **settings}), 0)
    with pytest.raises(UserError) as error:
        model.generate_until([asked])
    assert says in str(error.value)


@HARNESS
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pretrained": "no/such"}, "pretrained=no/such is no folder"),
        ({"dtype": "float16"}, "dtype=float16 is none of auto, float32, bfloat16"),
        ({"peft": "adapter"}, "does not know the argument 'peft'"),
        ({"device": "mps"}, "Device mps is none that symtune runs on"),
    ],
)
def test_an_argument_that_it_does_not_take_is_one_sentence(
    arguments: dict[str, Any], says: str, folder: Path
) -> None:
    from symtune_pipeline.evaluation.harness.model import SymtuneLM

    with pytest.raises(UserError) as error:
        SymtuneLM(**{"pretrained": str(folder)} | arguments)
    assert says in str(error.value)


@HARNESS
def test_the_plug_in_entry_names_the_class_that_registers_itself() -> None:
    from lm_eval.api.registry import get_model

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (entry,) = settings["project"]["entry-points"]["lm_eval.models"].items()
    name, (module, _, cls) = entry[0], entry[1].partition(":")
    assert get_model(name) is getattr(import_module(module), cls)


@HARNESS
@pytest.mark.slow  # the harness reads the names of all its tasks first
def test_the_command_of_the_docs_runs_the_harness_and_says_a_user_error_in_one_sentence(
    tasks: Path, tmp_path: Path
) -> None:
    tokenizer = small_tokenizer("gpt2")
    save_tiny_model(tmp_path, vocab_size=len(tokenizer), max_position_embeddings=2_048)
    tokenizer.save_pretrained(tmp_path)
    command = [sys.executable, "-m", "symtune_pipeline.evaluation.harness", "--model", "symtune"]
    command += ["--include_path", str(tasks), "--tasks", RANKED, "--model_args"]
    for more, code in (("", 0), (",peft=x", 2)):
        ended = subprocess.run(
            [*command, f"pretrained={tmp_path},dtype=float32{more}"], cwd=ROOT, capture_output=True,
            env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
            text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
        if code:
            last = ended.stderr.splitlines()[-1]
            assert last.startswith("error: Model symtune of the harness does not know")
        else:
            assert RANKED in ended.stdout


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-evaluation-harness is installed")
def test_where_the_harness_is_not_installed_one_sentence_says_how() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "symtune_pipeline.evaluation.harness"], cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: lm-evaluation-harness is not installed; run pip install 'symtune-pipeline[lm-eval]'.\n"
    )
