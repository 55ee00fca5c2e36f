"""What `symtune plan` says of an evaluation: counts that are the real pass's, and time that it takes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from conftest import ROOT
from evaluation_jobs import FEW, Asked, save_model_that_reads
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM

from symtune_pipeline.catalog.gpus import GB, find_gpu
from symtune_pipeline.catalog.models import all_models, find_model
from symtune_pipeline.commands.plan_evaluation import evaluation_details, evaluation_markdown
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.classification import predict
from symtune_pipeline.evaluation.finetuned import answer_in_all_ways
from symtune_pipeline.evaluation.memory import fewest_ranks, pass_bytes
from symtune_pipeline.evaluation.plan import EvaluationPlan, plan_evaluation
from symtune_pipeline.evaluation.questions import Part, Questions, counted, estimated
from symtune_pipeline.evaluation.scorer import score
from symtune_pipeline.evaluation.speed import measured_speed
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.files import read_table
from symtune_pipeline.models.attention import NAME
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.opening import open_tokenizer
from symtune_pipeline.models.sizing import asked_sizes, at_once
from symtune_pipeline.models.trees import Query, Tree
from symtune_pipeline.sections import EvaluationConfig, Finetuned
from symtune_pipeline.tables import Suite

MICRO = find_model("micro")


@pytest.fixture
def paper() -> Experiment:
    return load_experiment("paper")


@pytest.fixture(scope="module")
def asked(
    evaluation_examples: pl.DataFrame,
    symbols: pl.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> Asked:
    return Asked.written(tmp_path_factory.mktemp("asked"), evaluation_examples, symbols)


@pytest.fixture(scope="module")
def micro(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of micro's shape that reads with a tokenizer of 600 tokens."""
    shape = {k: v for k, v in MICRO.architecture.items() if k not in ("model_type", "vocab_size")}
    return save_model_that_reads(tmp_path_factory.mktemp("micro"), "llama", tokenizer, **shape)


def planned(experiment: Experiment, key: str, **chosen: Any) -> EvaluationPlan:
    return plan_evaluation(
        experiment, find_model(key), estimated(experiment, "estimated"), **chosen
    )


def questions_of(asked: Asked, folder: Path, **settings: Any) -> Questions:
    """Both suites as the model in a folder reads them; no text for the loss of language."""
    examples = read_table(asked.folder / "examples.parquet")
    inputs = examples.sort("example")["input"].to_list()
    suites: dict[Suite, pl.DataFrame] = {
        "classification": read_table(asked.folder / "classification.parquet"),
        "algorithmic": read_table(asked.folder / "algorithmic.parquet"),
        "language": examples.select("example").head(3),
    }
    return counted(folder, suites, inputs, 4_096, EvaluationConfig(**settings))


def shown(plan: EvaluationPlan) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(evaluation_details(plan), soft_wrap=True)
    return captured.get()


def test_several_numbers_of_exemplars_are_planned_as_one_after_another(paper: Experiment) -> None:
    def parts(numbers: Any) -> dict[str, Part]:
        asked = paper.evaluation.model_dump() | {"exemplars_per_class": numbers, "channel": True}
        config = paper.evaluation.model_validate(asked)
        changed = paper.model_copy(update={"evaluation": config})
        return {part.name: part for part in estimated(changed, "estimated").parts}

    together, alone = parts((1, 4, 16)), [parts(number) for number in (1, 4, 16)]
    for name in ("contexts", "tokens", "targets"):
        icl = sum(getattr(each["icl"], name) for each in alone)
        assert getattr(together["icl"], name) == pytest.approx(icl)
        assert getattr(together["algorithmic"], name) == getattr(alone[0]["algorithmic"], name)
    # Queries without exemplars are asked once, not three times.
    held_out = [entry for entry in paper.datasets() if entry.role == "evaluation"]
    sets = sum(len(entry.labels) == 2 for entry in held_out)  # whose labels alone are flipped there
    flipped = sum(each["flipped"].contexts for each in alone)
    assert together["flipped"].contexts == flipped - 2 * sets * paper.evaluation.queries


def test_only_sets_with_two_labels_are_planned_where_only_theirs_are_flipped(
    paper: Experiment,
) -> None:
    def parts(**changed: Any) -> dict[str, Part]:
        config = paper.evaluation.model_validate(paper.evaluation.model_dump() | changed)
        of = paper.model_copy(update={"evaluation": config})
        return {part.name: part for part in estimated(of, "estimated").parts}

    two, every, none = parts(), parts(flipped_sets="all"), parts(flipped_percents=())
    labels = [len(entry.labels) for entry in paper.datasets() if entry.role == "evaluation"]
    share = two["flipped"].contexts / every["flipped"].contexts
    assert share == pytest.approx(labels.count(2) / len(labels))
    assert 0 < two["flipped"].tokens < every["flipped"].tokens
    assert two["icl"] == every["icl"]
    assert (none["flipped"].contexts, none["flipped"].tokens) == (0, 0)
    # Each share of noise asks the two settings of symbols once more, beside the four.
    noisy = parts(label_noise=(0, 0.25, 0.5))["icl"]
    assert noisy.tokens == pytest.approx(2 * two["icl"].tokens)


# --- counted --------------------------------------------------------------------------------------


def test_the_tokens_that_are_counted_are_those_that_run(asked: Asked, micro: Path) -> None:
    """Of a real evaluation; and it takes the time that is planned from them, on the same machine."""
    questions = questions_of(asked, micro)
    model, tokenizer = load_model(micro, torch.float32, "cpu").eval(), open_tokenizer(micro)
    ran: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: ran.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    suite = read_table(asked.folder / "classification.parquet")
    inputs = read_table(asked.folder / "examples.parquet").sort("example")["input"].to_list()
    took = []
    for _ in range(2):
        ran.clear()
        started = time.perf_counter()
        predict(model, tokenizer, suite, inputs)
        took.append(time.perf_counter() - started)
    parts = {part.name: part for part in questions.parts}
    scored = [parts["icl"], parts["flipped"]]
    assert sum(ran) == sum(part.tokens for part in scored)
    assert parts["algorithmic"].prompts == read_table(asked.folder / "algorithmic.parquet").height
    plan = EvaluationPlan(MICRO, replace(questions, parts=scored), 1, False, find_gpu("cpu"), 1, 1)
    low, high = plan.seconds
    # The fastest of three passes is planned with; other work on the machine slows a run down.
    assert 0.1 * min(took) < low <= high < 4 * max(took), (took, low, high)


@pytest.mark.parametrize("channel", [False, True])
def test_what_settings_let_expect_is_near_what_is_counted(
    asked: Asked, micro: Path, channel: bool
) -> None:
    experiment = load_experiment("smoke")
    settings = FEW.model_copy(update={"channel": channel})
    few = experiment.model_copy(update={"evaluation": settings})
    counts = {part.name: part for part in questions_of(asked, micro, channel=channel).parts}
    sets = read_table(asked.folder / "classification.parquet")["dataset"].n_unique()
    of_all = sum(entry.role == "evaluation" for entry in few.datasets())
    for part in estimated(few, "").parts[:2]:
        tokens = part.tokens * sets / of_all
        assert tokens == pytest.approx(counts[part.name].tokens, rel=0.6), part.name
    (completed,) = [part for part in estimated(few, "").parts if part.name == "algorithmic"]
    assert completed.prompts == counts["algorithmic"].prompts


def test_tuning_on_exemplars_is_counted_as_it_runs(asked: Asked, micro: Path) -> None:
    """A step runs its exemplars once forward, and its backward costs two forwards more."""
    steps, examples = 2, read_table(asked.folder / "examples.parquet")
    tuned = Finetuned(steps=steps)
    suite = read_table(asked.folder / "classification.parquet")
    ran: list[int] = []

    def count(module: torch.nn.Module, args: Any) -> None:
        if isinstance(module, torch.nn.Embedding):
            ran.append((3 if torch.is_grad_enabled() else 1) * args[0].numel())

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    answer_in_all_ways(
        micro, suite, examples.sort("example")["input"].to_list(),
        EvaluationConfig(finetuned=tuned, precision="fp32"),
    )  # fmt: skip
    hook.remove()
    counts = {part.name: part for part in questions_of(asked, micro, finetuned=tuned).parts}
    assert counts["fine-tuned"].tokens == pytest.approx(sum(ran), rel=0.2)
    assert "fine-tuned" not in [part.name for part in questions_of(asked, micro).parts]
    smoke = load_experiment("smoke")
    few = smoke.model_copy(update={"evaluation": FEW.model_copy(update={"finetuned": tuned})})
    (part,) = [part for part in estimated(few, "").parts if part.name == "fine-tuned"]
    sets = suite["dataset"].n_unique()
    of_all = sum(entry.role == "evaluation" for entry in few.datasets())
    tokens = part.tokens * sets / of_all
    assert tokens == pytest.approx(counts["fine-tuned"].tokens, rel=0.6)


def test_the_memory_of_a_pass_is_that_of_a_real_one() -> None:
    """What the tensors of a real pass of scoring take at once, beside the weights."""
    sizes = asked_sizes(MICRO.architecture, bf16=False)
    assert sizes.parameters == MICRO.parameters
    config = AutoConfig.for_model(**MICRO.architecture)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=NAME).eval()
    tree = Tree([1] * 196, [Query([1] * 12, [[1, 2], [3, 4], [5, 6], [7, 8]])] * 20)
    for trees in (1, 4):
        tokens, rows = trees * 516, trees * 20 * (1 + 4)
        assert tokens == trees * tree.tokens
        with at_once(model.parameters()) as most:
            score(model, [tree] * trees, max_tokens=tokens)
        assert most() == pytest.approx(pass_bytes(sizes, tokens, rows), rel=0.25)


def test_every_variant_that_is_tuned_is_counted() -> None:
    quickstart, losses = (planned(load_experiment(name), "smollm2-135m", gpu="h100")
                          for name in ("quickstart", "losses"))  # fmt: skip
    assert (quickstart.variants, losses.variants) == (2, 7)
    assert losses.tokens == pytest.approx(3.5 * quickstart.tokens)


@pytest.mark.parametrize(
    "architecture",
    [
        {"model_type": "bloom", "hidden_size": 32, "n_head": 4},
        {"model_type": "mamba", "hidden_size": 32, "state_size": 4},
    ],
)
def test_the_speed_of_a_class_that_is_not_packed_and_has_no_longest_text_is_measured(
    architecture: dict[str, Any],
) -> None:
    shape = {**architecture, "vocab_size": 97, "num_hidden_layers": 3}
    speed = measured_speed(shape, Part("icl", contexts=2, tokens=200, targets=20), bf16=False)
    assert speed.of_pass > 0 and speed.of_step > 0


# --- spread ---------------------------------------------------------------------------------------


def test_a_model_that_fits_no_gpu_is_held_by_the_fewest_that_have_the_memory(
    paper: Experiment,
) -> None:
    plan = planned(paper, "k2-65b", gpu="h100", gpus=8)
    assert plan.ranks == 4
    assert plan.fits
    assert not replace(plan, ranks=2).fits
    text = shown(plan)
    assert "4 ranks together (tensor parallelism), 2 such teams" in text
    whole = planned(paper, "olmo2-7b", gpu="h100", gpus=8)
    assert whole.ranks == 1
    assert "each rank, whole" in shown(whole)


def test_what_does_not_fit_says_how_many_would(paper: Experiment) -> None:
    plan = planned(paper, "llama3.1-405b", gpu="h100", gpus=8)
    assert not plan.fits
    text = shown(plan)
    assert "It does not fit" in text
    assert f"Together {plan.fewest_gpus()} x h100 would hold it." in text
    assert planned(paper, "llama3.1-405b", gpu="h100", gpus=plan.fewest_gpus()).fits
    assert text.count("none: it does not fit") == 2, "no time and no price"


def test_ranks_that_share_by_layers_gain_no_speed(paper: Experiment) -> None:
    plan = planned(paper, "k2-65b", gpu="h100", gpus=8)
    by_layers = replace(plan, gpus=6, ranks=6)  # 64 heads
    assert by_layers.why_not_cut
    assert "gathered" in by_layers.memory
    assert "FSDP2: LlamaForCausalLM has 64 attention heads" in shown(by_layers)
    assert by_layers.seconds[0] > 3 * plan.seconds[0]


def test_gpus_that_make_no_whole_number_of_teams_are_refused(paper: Experiment) -> None:
    settings = paper.evaluation.model_copy(update={"ranks_per_model": 4})
    four = paper.model_copy(update={"evaluation": settings})
    with pytest.raises(UserError, match=r"is 4, and 6 GPUs make no whole .* plan for 8 GPUs"):
        planned(four, "olmo2-7b", gpu="h100", gpus=6)
    assert planned(four, "olmo2-7b", gpu="h100", gpus=8).ranks == 4


def test_the_job_takes_as_few_ranks_as_are_planned(micro: Path) -> None:
    sizes = asked_sizes(MICRO.architecture, bf16=False)
    options: dict[str, Any] = {"bf16": False, "device": "cpu", "ranks": 4}
    assert fewest_ranks(micro, room=GB, **options) == 1
    # As much as the weights take: a pass leaves no room for them, whole or cut.
    assert fewest_ranks(micro, room=sizes.weights, **options) == 4


def test_a_plan_is_read_at_80_columns(paper: Experiment) -> None:
    for gpus in (1, 6, 8):
        lines = shown(planned(paper, "k2-65b", gpu="h100", gpus=gpus)).splitlines()
        assert max(map(len, lines)) <= 80, lines


def test_every_model_of_the_catalogue_is_planned(paper: Experiment) -> None:
    asked = estimated(paper, "estimated")
    plans = [
        plan_evaluation(paper, model, asked)
        for key, model in all_models().items()
        if key != "micro"  # which is measured
    ]
    assert all(plan.fits for plan in plans)
    table = evaluation_markdown(plans).splitlines()
    assert {line.count("|") for line in table} == {table[0].count("|")}
    shown = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()
    old = [line for line in table if line not in shown]
    assert not old, "docs/scaling.md shows what `symtune --experiment paper plan --all` said once"
