"""What a fine-tune will need before it costs money: memory, time and price on given GPUs.

Sizes are counted (`sizing`), not measured. What is assumed rather than counted: the share of its
peak that a GPU reaches and its price (catalog/gpus.yaml), and the constants below. The time on this
machine's CPU is measured (`speed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import ceil, prod
from pathlib import Path

import psutil

from symtune_pipeline.catalog.gpus import GB, USABLE, Gpu, all_gpus, find_gpu, utilisation
from symtune_pipeline.catalog.models import Model, find_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, lora_of
from symtune_pipeline.models.sizing import Sizes, sizes_of
from symtune_pipeline.sections import Lora, Trainable
from symtune_pipeline.tuning.config import JobConfig
from symtune_pipeline.tuning.order import PASS_TOKENS, blocks_per_step
from symtune_pipeline.tuning.settings import job_config
from symtune_pipeline.tuning.speed import Speed, measured_speed
from symtune_pipeline.tuning.workload import Workload

# The least that a decoder layer costs for a pass, forward and backward: launching its kernels one
# by one. It is what limits models too small for their GPU.
LAUNCH_SECONDS = 1e-3
# Of the measured time on a CPU: checkpoints, and whatever else the machine does, come on top.
ON_CPU = (0.9, 1.3)
POWERS = [2**power for power in range(11)]
LEAST_BLOCK = 128  # tokens: shorter ones hold no prompt of a mixture


@dataclass(frozen=True)
class Plan:
    """A model, how it is tuned, and on what; the properties are what it will need."""

    model: Model
    job: JobConfig
    load: Workload
    bf16: bool  # matrices are multiplied in it
    gpu: Gpu
    gpus: int
    lora_rank: int | None
    activation_checkpointing: bool

    @property
    def sizes(self) -> Sizes:
        """The model's counts."""
        halved = self.gpus > 1 or self.lora_rank is not None or self._has_copy
        return _counted(self.model.key, self.bf16, halved, self.job.trainable)

    @property
    def _has_copy(self) -> bool:
        """On a CPU in bf16, passes run a copy of the model that is tuned (`working`)."""
        alone = self.gpus == 1 and not self.lora_rank
        return self.bf16 and self.gpu.key == "cpu" and alone

    @property
    def trained(self) -> Sequence[tuple[int, ...]]:
        """Shapes of what is trained."""
        return self.sizes.adapters(self.lora_rank) if self.lora_rank else self.sizes.tuned

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(map(prod, self.trained))

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of a rank, by what they are for. Weights and their kin are sharded over the ranks."""
        sizes, block = self.sizes, self.job.block_tokens
        trained = self.trained_parameters
        number = 2 if self.bf16 else 4  # bytes of one that is multiplied with
        frozen = sizes.parameters * number if self.lora_rank else 4 * (sizes.parameters - trained)
        layers = 1 if self.activation_checkpointing else sizes.layers
        needed = {
            "weights": (4 * trained + frozen) / self.gpus,
            "gradients": 4 * trained / self.gpus,
            "optimiser": 4 * self._optimiser_numbers() / self.gpus,
            "activations": block * (sizes.layer_bytes * layers + sizes.other_bytes),
            "logits": self._logits(),
            "runtime": self.gpu.runtime_gb * GB,
        }
        if self.activation_checkpointing:
            needed["activations"] += block * sizes.residual_bytes * sizes.layers
        if self.gpu.fragmentation:
            needed["fragmentation"] = self.gpu.fragmentation * needed["activations"]
        if self._has_copy:
            needed["bf16 copy"] = 2 * (sizes.parameters + trained)  # with its gradients
        elif self.bf16 and self.gpus == 1 and not self.lora_rank:
            # autocast makes them of all matrices and keeps them to the end of the forward pass or
            # longer.
            needed["bf16 copies"] = 2 * (sizes.layer_matrices + sizes.lm_head)
        if self.gpus > 1:
            # FSDP2 holds the layer at work and the next one whole, and what lies outside layers;
            # gradients are made in the same precision and summed in fp32.
            outside = sizes.parameters - sizes.layers * sizes.layer_parameters
            whole = (2 * sizes.layer_parameters + outside) * number
            of_gradients = 6 if self.bf16 else 4
            of_all = self.job.trainable == "all"
            tuned = sizes.layer_parameters + outside if of_all else trained / sizes.layers
            needed["gathered"] = whole + (0 if self.lora_rank else of_gradients * tuned)
        return needed

    def _optimiser_numbers(self) -> int:
        if self.job.optimizer == "adamw":
            return 2 * self.trained_parameters
        # Adafactor keeps a row and a column of each matrix (Shazeer and Stern 2018).
        return sum(
            prod(s[:-1]) + prod(s[:-2]) * s[-1] if len(s) > 1 else prod(s) for s in self.trained
        )

    def _logits(self) -> float:
        """Logits of a block's targets, in fp32 and as multiplied, their softmax and gradient."""
        rows = ceil(self.load.most_targets / 64) * 64
        return rows * self.sizes.vocabulary * (16 if self.bf16 else 12)

    @property
    def needed(self) -> float:
        """Bytes of a rank."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the memory is enough."""
        assert self.gpu.memory_gb is not None
        return self.needed <= USABLE * self.gpu.memory_gb * GB

    @property
    def steps(self) -> int:
        """Steps of the optimiser."""
        steps = ceil(self.load.blocks * self.job.epochs / blocks_per_step(self.job))
        return min(steps, self.job.steps or steps)

    @property
    def blocks(self) -> int:
        """Blocks that are trained on, repeated ones counted again."""
        return min(self.steps * blocks_per_step(self.job), self.load.blocks * self.job.epochs)

    @property
    def tokens(self) -> float:
        """Tokens that are trained on."""
        return self.load.tokens * self.blocks / self.load.blocks

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole fine-tune."""
        tokens, load = self.tokens, self.load
        return self.sizes.matrices(self.lora_rank).flops(
            tokens,
            tokens * load.prompt_tokens,
            tokens * load.targets / load.tokens,
            recomputed=self.activation_checkpointing,
        )

    @property
    def seconds(self) -> tuple[float, float]:
        """Least and most, at the assumed utilisation; on a CPU, about what was measured."""
        if self.gpu.key == "cpu":
            measured = self.blocks * self.speed.of_block + self.steps * self.speed.of_step
            return ON_CPU[0] * measured, ON_CPU[1] * measured
        assert self.gpu.tflops is not None
        of_step = ceil(blocks_per_step(self.job) / self.gpus)  # blocks of a rank
        together = max(1, min(of_step, PASS_TOKENS // self.job.block_tokens))
        launches = self.sizes.layers * LAUNCH_SECONDS / together
        of_block = self.flops / self.blocks / (self.gpu.tflops * 1e12)
        low, high = (max(of_block / share, launches) for share in reversed(self.utilisation))
        return self.steps * of_step * low, self.steps * of_step * high

    @property
    def utilisation(self) -> tuple[float, float]:
        """The share of the peak that is assumed, least and most."""
        return utilisation(self.sizes.parameters)

    @cached_property
    def speed(self) -> Speed:
        """Of this machine's CPU, measured when it is asked for; ranks share the machine."""
        lora = Lora(rank=self.lora_rank) if self.lora_rank else None
        again = self.activation_checkpointing
        job = self.job.model_copy(update={"lora": lora, "activation_checkpointing": again})
        targets = round(self.load.targets / self.load.blocks)
        precision = "bf16" if self.bf16 else "fp32"
        return measured_speed(
            self.model.architecture, job, precision, self.load.prompt_tokens, targets
        )

    @property
    def dollars(self) -> tuple[float, float] | None:
        """Least and most; None where nothing is rented."""
        return self.gpu.dollars(self.seconds, self.gpus)

    def ways_out(self) -> list[str]:
        """What would make it fit: another way of tuning, more or larger GPUs, shorter blocks."""
        ways = {"": self}
        if not self.activation_checkpointing:
            ways[" with activation checkpointing"] = replace(self, activation_checkpointing=True)
        if not self.lora_rank and self.job.trainable == "all":
            ways |= {
                f"{name or ' with'}{' and' if name else ''} LoRA": replace(
                    way, lora_rank=Lora().rank
                )
                for name, way in ways.items()
            }
        for gpu in [self.gpu, *_larger(self.gpu)]:
            fitting = [
                f"{fewest} x {gpu.key}{name}"
                for name, way in ways.items()
                if (fewest := replace(way, gpu=gpu)._fewest_gpus())
            ]
            if fitting:
                return fitting + self._shorter_blocks()
        return self._shorter_blocks()

    def _fewest_gpus(self) -> int | None:
        """On how many GPUs of its kind it fits; None where a step has too few blocks to share."""
        most = self.gpus if self.gpu.key == "cpu" else blocks_per_step(self.job)
        numbers = [self.gpus, *(n for n in POWERS if self.gpus < n <= most)]
        return next((n for n in numbers if replace(self, gpus=n).fits), None)

    def _shorter_blocks(self) -> list[str]:
        """The largest half, quarter and so on of a block with which it fits; none where weights fill it."""
        block = self.job.block_tokens
        while (block := block // 2) >= LEAST_BLOCK:
            shorter = self.job.model_copy(update={"block_tokens": block})
            if replace(self, job=shorter).fits:
                return [f"tuning.block_tokens: {block}"]
        return []


def _larger(gpu: Gpu) -> list[Gpu]:
    """The kinds with more memory than this one, small to large; beside a CPU, all kinds of GPU."""
    least = 0 if gpu.key == "cpu" else gpu.memory_gb or 0
    others = [other for key, other in all_gpus().items() if key != "cpu"]
    return [other for other in others if (other.memory_gb or 0) > least]


def make_plan(
    experiment: Experiment,
    model: Model,
    load: Workload,
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    lora: bool | None = None,
    activation_checkpointing: bool | None = None,
) -> Plan:
    """Plan the experiment's fine-tune of a model; what is None is as the job would have it.

    Raises UserError for a block above the model's context, an unknown GPU, more GPUs than a step has
    blocks, and adapters where only some projections are tuned.
    """
    from symtune_pipeline.tuning.job import resolve_precision

    kind = find_gpu(gpu or model.plan.gpu)
    no = Path()  # nothing is run
    job = job_config(model, experiment, model_folder=no, blocks=no, output_folder=no, inputs={})
    count = gpus or (model.plan.gpus if gpu in (None, model.plan.gpu) else 1)
    bf16 = resolve_precision(job.precision, "cpu" if kind.key == "cpu" else "cuda") == "bf16"
    rank = job.lora.rank if job.lora else None
    if lora is not None:
        rank = (rank or Lora().rank) if lora else None
        # Refused where only some projections are tuned.
        lora_of(experiment.tuning.model_copy(update={"lora": Lora(rank=rank or 0)}), model)
    if activation_checkpointing is None:
        activation_checkpointing = job.activation_checkpointing
    plan = Plan(
        model,
        job,
        load,
        bf16,
        _with_this_machine(kind, count),
        count,
        rank,
        activation_checkpointing,
    )
    per_step = blocks_per_step(job)
    if count > per_step:
        raise UserError(
            f"A step of {job.tokens_per_step:,} tokens has {per_step} blocks for {count}"
            f" GPUs; raise tuning.tokens_per_step to {count * job.block_tokens:,} or take fewer GPUs."
        )
    return plan


@cache
def _counted(key: str, bf16: bool, halved: bool, trainable: Trainable) -> Sizes:
    architecture = find_model(key).architecture
    return sizes_of(architecture, bf16=bf16, halved=halved, trainable=trainable)


def _with_this_machine(gpu: Gpu, ranks: int) -> Gpu:
    """A CPU with a rank's share of this machine's memory."""
    if gpu.key != "cpu":
        return gpu
    memory = psutil.virtual_memory().total
    return gpu.model_copy(update={"memory_gb": memory / GB / ranks})
