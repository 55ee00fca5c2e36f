"""`symtune plan`: counts that are the real model's, and memory that a real run needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from rich.console import Console
from tiny_models import SETTINGS, random_blocks, save_tiny_tokenizer, tiny_config
from transformers import AutoConfig, AutoModelForCausalLM

from resources.pipes import ENVIRONMENT
from symtune_pipeline.catalog.gpus import GB, find_gpu
from symtune_pipeline.catalog.models import Model, all_models, find_model
from symtune_pipeline.commands.plan import plan as plan_command
from symtune_pipeline.commands.plan import workload
from symtune_pipeline.commands.plan_tables import details, markdown
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, load_experiment
from symtune_pipeline.models.projections import train_only
from symtune_pipeline.models.sizing import attention_width, sizes_of
from symtune_pipeline.progress import duration
from symtune_pipeline.sections import Lora
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import PACKED_MIXTURE, RAW_EXAMPLES
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job
from symtune_pipeline.tuning.metrics import Meter
from symtune_pipeline.tuning.optimizer import make_optimizer
from symtune_pipeline.tuning.plan import Plan, make_plan
from symtune_pipeline.tuning.speed import measured_speed
from symtune_pipeline.tuning.trainable import load_trainable, trained
from symtune_pipeline.tuning.workload import Workload, estimated_workload

MICRO = find_model("micro")

# The largest memory of the process that ran the job, in bytes.
MEASURE = """
import sys
from pathlib import Path
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.job import run_job

run_job(JobConfig.model_validate_json(Path(sys.argv[1]).read_text()), lambda line: None)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.fixture
def paper() -> Experiment:
    return load_experiment("paper")


def planned(experiment: Experiment, key: str, **chosen: Any) -> Plan:
    """The plan of a model on the mixture that the experiment's settings let expect."""
    return make_plan(experiment, find_model(key), estimated_workload(experiment, ""), **chosen)


def job_of_micro(folder: Path, block_tokens: int) -> JobConfig:
    """A short job on a random model of micro's architecture; its blocks are full."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**MICRO.architecture))
    model.save_pretrained(folder / "base")
    save_tiny_tokenizer(folder / "base")
    blocks = random_blocks(count=2, prompts=block_tokens // 256, length=256)
    blocks.write_parquet(folder / "blocks.parquet")
    return JobConfig(
        model_folder=folder / "base",
        blocks=folder / "blocks.parquet",
        output_folder=folder / "job",
        inputs={},
        optimizer="adamw",
        learning_rate=1e-3,
        warmup_steps=1,
        block_tokens=block_tokens,
        tokens_per_step=block_tokens,
        max_grad_norm=1.0,
        epochs=1,
        loss="all_labels",
        label_smoothing=0.0,
        precision="fp32",
        held_out=None,
        keep="last",
        trainable="all",
        lora=None,
        activation_checkpointing=False,
        compile=False,
        checkpoint_seconds=1_000,
        keep_checkpoints=1,
        seed=0,
    )


def measured_bytes(folder: Path, job: JobConfig) -> int:
    """The peak memory of a job in a process of its own, as a launcher starts it."""
    path = folder / "job.json"
    path.write_text(job.model_dump_json())
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ended.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_the_planned_memory_is_that_of_a_real_run(tmp_path: Path) -> None:
    planned, measured = [], []
    for block_tokens in (512, 2_048):
        folder = tmp_path / str(block_tokens)
        folder.mkdir()
        job = job_of_micro(folder, block_tokens)
        load = Workload("", block_tokens, 1, 32, 32, 256)
        plan = Plan(MICRO, job, load, False, find_gpu("cpu"), 1, None, False)
        planned.append(plan.needed)
        measured.append(measured_bytes(folder, job))
    # Most of it is Python and torch. What longer blocks add is the model's own.
    assert measured == pytest.approx(planned, rel=0.15)
    assert measured[1] - measured[0] == pytest.approx(planned[1] - planned[0], rel=0.25)


@pytest.mark.slow
def test_the_planned_time_on_a_cpu_is_that_of_a_real_run(tmp_path: Path) -> None:
    """Both run on the same machine, one after the other, whatever else it does."""
    job = job_of_micro(tmp_path, 1_024).model_copy(update={"epochs": 8})
    load = Workload("", 2 * 1_024, 2, 2 * 16, 16, 256)
    plan = Plan(MICRO, job, load, False, find_gpu("cpu"), 1, None, False)
    log = json.loads((run_job(job, lambda _: None) / "log.json").read_text(encoding="utf-8"))
    took = [row["seconds"] for row in log["log"] if row["step"]]
    steps = [after - before for before, after in pairwise(took)]
    planned = plan.speed.of_step + plan.speed.of_block  # a step has one block
    # Three times: what else the machine does may come and go between the two.
    assert min(steps) / 3 < planned < 3 * max(steps)
    assert plan.seconds[0] < plan.steps * planned < plan.seconds[1]


def test_a_plan_asks_nothing_of_the_cpu_for_a_gpu(
    paper: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symtune_pipeline.tuning.plan.measured_speed", None)
    assert planned(paper, "smollm2-135m", gpu="l4").seconds[0] > 0


@pytest.mark.parametrize("model", all_models().values(), ids=list(all_models()))
def test_the_parameters_of_the_catalogue_are_those_of_the_real_class(model: Model) -> None:
    with torch.device("meta"):
        real = AutoModelForCausalLM.from_config(AutoConfig.for_model(**model.architecture))
    assert sum(p.numel() for p in real.parameters()) == model.parameters
    assert real.config.max_position_embeddings == model.context_tokens


def test_the_counts_of_a_model_add_up() -> None:
    sizes = sizes_of(MICRO.architecture, bf16=False, halved=False)
    norms = (2 * sizes.layers + 1) * sizes.width
    assert sizes.parameters == sizes.layer_matrices + sizes.lm_head + norms
    assert sizes.parameters == MICRO.parameters
    outside = sizes.lm_head + sizes.width
    assert sizes.parameters == sizes.layers * sizes.layer_parameters + outside
    assert sum(map(prod, sizes.adapters(4))) == 4 * sum(map(sum, sizes.linear))


@pytest.mark.parametrize(
    ("optimizer", "trainable"),
    [("adamw", "all"), ("adafactor", "all"), ("adafactor", "attention"), ("adamw", "value")],
)
def test_the_optimisers_memory_is_what_it_keeps(
    optimizer: str, trainable: Any, tmp_path: Path
) -> None:
    settings = {"optimizer": optimizer, "trainable": trainable}
    job = job_of_micro(tmp_path, 512).model_copy(update=settings)
    plan = Plan(MICRO, job, Workload("", 1, 1, 1, 1, 1), False, find_gpu("cpu"), 1, None, False)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**MICRO.architecture))
    train_only(model, trainable)
    chosen = make_optimizer(model, job)
    for parameter in trained(model).values():
        parameter.grad = torch.ones_like(parameter)
    chosen.step()
    kept = [
        value for state in chosen.state.values() for value in state.values() if value.numel() > 1
    ]
    assert plan.memory["optimiser"] == sum(value.nbytes for value in kept)
    assert plan.memory["gradients"] == sum(p.nbytes for p in trained(model).values())
    assert plan.memory["weights"] == sum(p.nbytes for p in model.parameters())
    whole = replace(plan, job=job.model_copy(update={"trainable": "all"}))
    part = plan.memory["activations"] / whole.memory["activations"]
    assert part == 1 if trainable == "all" else 0.4 < part < 0.95


@pytest.mark.parametrize("options", [{}, {"lora": Lora(rank=4)}, {"trainable": "value"}])
def test_the_plan_and_the_log_count_the_same_operations(
    options: dict[str, Any], tmp_path: Path
) -> None:
    job = job_of_micro(tmp_path, 512).model_copy(update=options)
    lengths, targets = [100, 156, 256], 24
    squares = sum(length**2 for length in lengths)
    load = Workload("", sum(lengths), 1, targets, targets, squares / sum(lengths))
    rank = job.lora.rank if job.lora else None
    plan = Plan(MICRO, job, load, False, find_gpu("cpu"), 1, rank, False)
    meter = Meter(load_trainable(job, "fp32", "cpu"))
    assert plan.flops == pytest.approx(meter.flops(lengths, targets), rel=1e-12)


@pytest.mark.parametrize(
    ("architecture", "width"),
    [
        ("llama", 2 * 4 * 8),
        ("gpt2", 2 * 4 * 8),
        ("gemma4_unified_text", 4 * (16 + 24)),  # heads of another width where attention is global
        ("mamba", 0),
    ],
)
def test_attention_is_counted_layer_by_layer(architecture: str, width: int) -> None:
    layers = {"layer_types": ["sliding_attention", "full_attention"]}
    heads = {"head_dim": 16, "global_head_dim": 24}
    own = layers | heads if width > 64 else {}
    assert attention_width(tiny_config(architecture, **own)) == width


def test_a_model_that_cannot_be_counted_is_refused() -> None:
    architecture = {"model_type": "mixtral", **SETTINGS}
    with pytest.raises(
        UserError, match=r"^A model of type 'mixtral' cannot be counted without its"
    ):
        sizes_of(architecture, bf16=False, halved=False)


def test_a_model_is_planned_as_the_catalogue_says(paper: Experiment) -> None:
    plan = planned(paper, "olmo2-7b")
    assert (plan.gpu.key, plan.gpus, plan.lora_rank, plan.bf16) == ("h100", 4, None, True)
    assert plan.fits
    assert plan.trained_parameters == plan.model.parameters
    # 2 operations forward, 4 backward, 2 for activations computed again; the embedding costs none,
    # the LM head only at targets.
    assert plan.flops == pytest.approx(8 * 6.48e9 * plan.tokens, rel=0.05)
    assert plan.memory["weights"] == 4 * plan.model.parameters / 4
    assert plan.dollars is not None
    hours = plan.seconds[1] / 3_600
    assert plan.dollars[1] == pytest.approx(4 * hours * 12.29)


def test_ranks_share_what_is_sharded_and_nothing_else(paper: Experiment) -> None:
    two, four = (planned(paper, "olmo2-7b", gpu="h100", gpus=n).memory for n in (2, 4))
    for part in ("weights", "gradients", "optimiser"):
        assert two[part] == 2 * four[part]
    for part in ("activations", "logits", "gathered"):
        assert two[part] == four[part]
    assert "bf16 copies" not in two  # of a layer at a time only, which is what is gathered


def test_a_plan_that_does_not_fit_says_what_would(paper: Experiment) -> None:
    plan = planned(
        paper,
        "olmo2-7b",
        gpu="h100",
        gpus=1,
        activation_checkpointing=False,
    )
    assert not plan.fits
    ways = plan.ways_out()
    assert "1 x h100 with LoRA" in ways
    assert "1 x h100 with activation checkpointing and LoRA" in ways
    assert "2 x h100 with activation checkpointing" in ways
    lora = replace(plan, lora_rank=16)
    assert lora.fits
    assert lora.memory["weights"] < plan.memory["weights"]  # frozen weights are kept in bf16
    assert lora.trained_parameters < 0.01 * plan.trained_parameters
    assert replace(plan, activation_checkpointing=True).needed < plan.needed


def test_what_is_advised_makes_it_fit(paper: Experiment) -> None:
    """834 GB on an L4: no shorter block helps, but GPUs that the catalogue has."""
    plan = planned(paper, "llama3.1-405b", gpu="l4", gpus=1)
    assert not plan.fits
    ways = plan.ways_out()
    assert ways == ["32 x a100"]
    assert planned(paper, "llama3.1-405b", gpu="a100", gpus=32).fits
    assert not planned(paper, "llama3.1-405b", gpu="a100", gpus=16).fits
    said = Console(width=200)
    with said.capture() as shown:
        said.print(details(plan, "paper"))
    assert "tuning.block_tokens" not in shown.get()
    assert shown.get().count("none: it does not fit") == 2, "no time and no price"


def test_shorter_blocks_are_advised_where_they_are_enough(paper: Experiment) -> None:
    plan = planned(paper, "smollm2-360m", gpu="l4", gpus=1)
    few = plan.memory["activations"] + plan.memory["logits"]
    tight = plan.gpu.model_copy(update={"memory_gb": (plan.needed - 0.3 * few) / 0.9 / GB})
    short = replace(plan, gpu=tight)
    assert not short.fits
    (advice,) = [way for way in short.ways_out() if "block_tokens" in way]
    size = int(advice.rpartition(" ")[2])
    assert size == plan.job.block_tokens // 2
    shorter = plan.job.model_copy(update={"block_tokens": size})
    assert replace(short, job=shorter).fits


def test_what_fits_is_said_in_numbers_that_compare(paper: Experiment) -> None:
    plan = planned(paper, "k2-65b", gpu="h200", gpus=1)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(details(plan, "paper"))
    found = re.search(
        r"does not fit: it needs ([\d.]+) GB, and ([\d.]+) GB are usable \(90% of 141.0 GB\)",
        shown.get(),
    )
    assert found and float(found[1]) > float(found[2]) == pytest.approx(0.9 * 141, abs=0.05)


def test_counting_a_model_leaves_nothing_behind_for_a_real_pass() -> None:
    """Counted twice in bf16, and then run: nothing that a counted pass made is used again."""
    for _ in range(2):
        sizes_of(MICRO.architecture, bf16=True, halved=True)
    job = planned(load_experiment("smoke"), "micro", gpu="cpu").job
    speed = measured_speed(MICRO.architecture, job, "bf16", 100, 8)
    assert speed.of_block > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (8.4, "8 s"),
        (70, "1 min 10 s"),
        (2 * 3_600 + 300, "2 h 5 min"),
        (47 * 3_600, "47 h 0 min"),
        (1_821 * 3_600, "75 d 21 h"),
    ],
)
def test_long_times_are_given_in_days(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_unknown_gpu_is_refused_before_anything_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("symtune_pipeline.commands.plan.current_store", None)
    with pytest.raises(UserError, match="no GPU 'h9' in the catalogue; choose one of l4"):
        plan_command(model="smollm2-135m", gpu="h9")


def test_a_cap_on_steps_caps_tokens_and_time(paper: Experiment) -> None:
    plan = planned(paper, "llama3.1-405b")
    uncapped = replace(plan, job=plan.job.model_copy(update={"steps": None}))
    assert (plan.steps, plan.job.steps) == (1_000, 1_000)
    assert uncapped.steps > 1_000
    assert plan.tokens == pytest.approx(1_000 * plan.job.tokens_per_step, rel=0.01)
    assert plan.seconds[0] < uncapped.seconds[0]


def test_a_mixture_that_was_packed_is_read(tmp_path: Path) -> None:
    store, smoke = Store(tmp_path), load_experiment("smoke")
    assert workload(store, smoke, MICRO).source.startswith("estimated; ")
    blocks = random_blocks(count=5, prompts=4, length=200)
    with store.writing(PACKED_MIXTURE.asset, "smollm2-135m") as folder:
        PACKED_MIXTURE.write(blocks, folder)
    load = workload(store, smoke, MICRO)
    assert make_plan(smoke, MICRO, load).load is load
    lengths = blocks["sequence_lengths"].explode()
    assert load.source == "packed for smollm2-135m"
    assert (load.tokens, load.blocks) == (lengths.sum(), 5)
    assert (load.targets, load.most_targets) == (5 * 4 * 4, 4 * 4)  # kinds 1 and 2, two tokens each
    assert load.prompt_tokens == pytest.approx((lengths.cast(float) ** 2).sum() / lengths.sum())


def test_the_tokens_of_a_mixture_are_estimated_from_the_texts_of_its_sets(
    paper: Experiment,
) -> None:
    real = load_experiment("generated-to-real")
    # What the packed mixture of this experiment has with SmolLM2's tokenizer.
    assert estimated_workload(real, "").tokens == pytest.approx(140_830, rel=0.1)
    long = dict.fromkeys((entry.key for entry in paper.datasets()), 450.0)
    twice = estimated_workload(paper, "", long).tokens / estimated_workload(paper, "").tokens
    assert 2 < twice < 3


@pytest.mark.parametrize(("name", "variants"), [("law", 21), ("families", 24)])
def test_variants_of_the_sets_have_prompts_for_all_their_steps(name: str, variants: int) -> None:
    law = load_experiment(name)
    assert len(law.variants) == variants
    for each in (law, *map(law.variant, law.variants)):
        steps, size = each.tuning.steps, each.tuning.tokens_per_step
        assert steps and size
        assert estimated_workload(each, "").tokens > 1.2 * steps * size, each.name


def test_the_lengths_of_loaded_sets_are_those_of_their_inputs(tmp_path: Path) -> None:
    store, mine = Store(tmp_path), tmp_path / "mine.yaml"
    mine.write_text(
        "models: [micro]\ndata: {source: hub, datasets: [rte, cola, subj]}\nmixture: {prompts: 10}\n"
    )
    experiment = load_experiment(str(mine))
    before = workload(store, experiment, MICRO).prompt_tokens
    row = dict.fromkeys(RAW_EXAMPLES.columns, "rte")
    row |= {"split": "train", "label_id": 0, "input": "long " * 200}
    table = RAW_EXAMPLES.frame([row])
    with store.writing("raw_rte") as folder:
        RAW_EXAMPLES.write(table, folder)
    after = workload(store, experiment, MICRO).prompt_tokens
    # One of two sets has a thousand characters where 45 tokens an example were taken for granted.
    assert 2 * (after / before) - 1 == pytest.approx((9 + 1_000 / 4.2) / 45, rel=0.01)


def test_more_gpus_than_a_step_has_blocks_are_refused(paper: Experiment) -> None:
    with pytest.raises(UserError, match=r"raise tuning\.tokens_per_step to 131,072 or take"):
        planned(paper, "olmo2-7b", gpu="h100", gpus=64)


def test_every_model_is_planned_so_that_it_fits(paper: Experiment) -> None:
    plans = [planned(paper, key) for key in all_models()]
    assert all(plan.fits for plan in plans)
    table = markdown(plans).splitlines()
    assert len(table) == 2 + len(plans)
    assert {line.count("|") for line in table} == {table[0].count("|")}
    shown = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()
    old = [line for line in table if line not in shown and "`micro`" not in line]
    assert not old, "docs/scaling.md shows what `symtune --experiment paper plan --all` said once"


def test_a_plan_for_some_projections_says_so_and_refuses_adapters() -> None:
    smoke = load_experiment("smoke", ["tuning.trainable=value"])
    plan = planned(smoke, "micro", gpu="l4")
    assert plan.trained_parameters == plan.sizes.layers * 64 * 128  # two heads of values of 32
    console = Console(width=200, record=True)
    console.print(details(plan, "smoke"))
    assert "the projections of values" in console.export_text()
    with pytest.raises(UserError, match=r"set tuning\.lora\.rank to 0 or tuning\.trainable to all"):
        planned(smoke, "micro", lora=True)


def test_a_tight_gpu_is_judged_by_what_is_usable(paper: Experiment) -> None:
    plan = planned(paper, "smollm2-360m")
    exactly = plan.gpu.model_copy(update={"memory_gb": plan.needed / GB})
    assert not replace(plan, gpu=exactly).fits
