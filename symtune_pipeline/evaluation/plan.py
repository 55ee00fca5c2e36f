"""What an evaluation will need before it costs money: memory, time and price on given GPUs.

Sizes are counted (`sizing`), and so are the questions where the suites and the model's tokenizer are
there. What is assumed rather than counted: the share of its peak that a GPU reaches and its price
(catalog/gpus.yaml), and the constants below. The time on this machine's CPU is measured (`speed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from math import ceil

import psutil

from symtune_pipeline.catalog.gpus import GB, USABLE, Gpu, find_gpu, utilisation
from symtune_pipeline.catalog.models import Model, find_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.asking import BATCH, PASS_TOKENS
from symtune_pipeline.evaluation.memory import memory
from symtune_pipeline.evaluation.questions import Part, Questions
from symtune_pipeline.evaluation.speed import Speed, measured_speed
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.models.sizing import Asked, asked_sizes

# The least that a decoder layer costs for a pass: launching its kernels one by one.
LAUNCH_SECONDS = 3e-4
# With FSDP2 every pass gathers the weights, from GPUs beside at this share of the speed of a GPU's memory.
BESIDE = 0.1
# Of the most tokens that a completion may have; it ends with its line.
COMPLETED = (0.3, 1.0)
# Of the measured time on a CPU: reading weights and text, and whatever else the machine does, come on top.
ON_CPU = (0.9, 1.4)


@dataclass(frozen=True)
class EvaluationPlan:
    """A model, what it is asked, and on what; the properties are what it will need."""

    model: Model
    questions: Questions
    variants: int
    bf16: bool
    gpu: Gpu
    gpus: int
    ranks: int  # that hold a model together

    @property
    def sizes(self) -> Asked:
        """The model's counts."""
        return _counted(self.model.key, self.bf16)

    @property
    def device(self) -> str:
        """As torch names it."""
        return "cpu" if self.gpu.key == "cpu" else "cuda"

    @property
    def why_not_cut(self) -> str | None:
        """Why a spread model is held by FSDP2; None with tensor parallelism, and where it is whole."""
        return self.sizes.why_not_cut(self.ranks) if self.ranks > 1 else None

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of a rank, by what they are for."""
        needed = memory(self.sizes, self.ranks, self.device)
        return needed | {"runtime": self.gpu.runtime_gb * GB}

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
    def tokens(self) -> float:
        """Tokens that run through all variants, beginnings once."""
        return self.variants * sum(part.tokens for part in self.questions.parts)

    @property
    def seconds(self) -> tuple[float, float]:
        """Least and most, of all parts."""
        times = [self.seconds_of(part) for part in self.questions.parts]
        return sum(low for low, _ in times), sum(high for _, high in times)

    def seconds_of(self, part: Part) -> tuple[float, float]:
        """Least and most of one part, for all variants."""
        batches, passes = ceil(part.prompts / BATCH), part.tokens / PASS_TOKENS[self.device]
        steps = tuple(batches * part.new_tokens * share for share in COMPLETED)
        if self.device == "cpu":
            low, high = (passes * self.speed.of_pass + n * self.speed.of_step for n in steps)
            return self.variants * ON_CPU[0] * low, self.variants * ON_CPU[1] * high
        low, high = (
            passes * max(self._pass_seconds(part, share), self._step_seconds)
            + n * self._step_seconds
            for n, share in zip(steps, reversed(utilisation(self.sizes.parameters)), strict=True)
        )
        teams = self.gpus // self.ranks
        return self.variants * low / teams, self.variants * high / teams

    def _pass_seconds(self, part: Part, share: float) -> float:
        """Of a full pass, at a share of the GPU's peak. With FSDP2 each rank computes all of it."""
        assert self.gpu.tflops is not None
        sizes, tokens = self.sizes, PASS_TOKENS[self.device]
        targets = tokens * part.targets / max(1.0, part.tokens)
        flops = 2 * (sizes.layers * sizes.layer_parameters * tokens + sizes.lm_head * targets)
        together = 1 if self.why_not_cut else self.ranks
        return flops / (self.gpu.tflops * 1e12 * share * together)

    @property
    def _step_seconds(self) -> float:
        """The least of any pass: launching its kernels and reading the weights."""
        assert self.gpu.tb_per_second is not None
        speed = self.gpu.tb_per_second * 1e12
        read = self.sizes.weights / (self.ranks * speed)
        if self.why_not_cut:
            read = self.sizes.weights / (BESIDE * speed)
        return self.sizes.layers * LAUNCH_SECONDS + read

    @cached_property
    def speed(self) -> Speed:
        """Of this machine's CPU, measured when it is asked for; ranks share the machine."""
        return measured_speed(self.model.architecture, self.questions.parts[0], bf16=self.bf16)

    @property
    def dollars(self) -> tuple[float, float] | None:
        """Least and most; None where nothing is rented."""
        return self.gpu.dollars(self.seconds, self.gpus)

    def fewest_gpus(self) -> int | None:
        """How many of its kind would hold the model together; None of a CPU, and above a thousand."""
        if self.device == "cpu":
            return None
        room = USABLE * (self.gpu.memory_gb or 0) * GB - self.gpu.runtime_gb * GB
        powers = (2**power for power in range(11))
        held = (n for n in powers if sum(memory(self.sizes, n, self.device).values()) <= room)
        return next(held, None)


def plan_evaluation(
    experiment: Experiment,
    model: Model,
    questions: Questions,
    *,
    gpu: str | None = None,
    gpus: int | None = None,
) -> EvaluationPlan:
    """Plan the experiment's evaluation of a model; what is None is as the catalogue plans the fine-tune.

    Raises UserError for an unknown GPU, and where GPUs cannot be dealt as evaluation.ranks_per_model says.
    """
    settings, kind = experiment.evaluation, find_gpu(gpu or model.plan.gpu)
    count = gpus or (model.plan.gpus if gpu in (None, model.plan.gpu) else 1)
    if kind.key == "cpu":
        kind = kind.model_copy(update={"memory_gb": psutil.virtual_memory().total / GB / count})
    bf16 = kind.key != "cpu" if settings.precision == "auto" else settings.precision == "bf16"
    parent = settings.pretrained and model.parent is not None
    variants = 2 + parent + len(experiment.variants)
    asked = settings.ranks_per_model
    numbers = [n for n in range(1, count + 1) if count % n == 0]
    if asked != "auto":
        if asked not in numbers:
            raise UserError(
                f"Setting evaluation.ranks_per_model is {asked}, and {count} GPUs make no whole number of"
                f" such teams; plan for {asked * -(-count // asked)} GPUs, or change it."
            )
        numbers = [asked]
    plans = [EvaluationPlan(model, questions, variants, bf16, kind, count, n) for n in numbers]
    return next((plan for plan in plans if plan.fits), plans[-1])


@cache
def _counted(key: str, bf16: bool) -> Asked:
    return asked_sizes(find_model(key).architecture, bf16=bf16)
