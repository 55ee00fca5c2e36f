"""Plans as a person reads them: one in the terminal, those of all models as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from symtune_pipeline.catalog.gpus import GB, USABLE
from symtune_pipeline.evaluation.plan import EvaluationPlan
from symtune_pipeline.progress import duration
from symtune_pipeline.tuning.plan import Plan

COLUMNS = ["model", "parameters", "tuned", "on", "memory of a GPU", "tokens", "time", "price"]

TUNED = {
    "all": "all weights",
    "attention": "the projections of attention",
    "value": "the projections of values",
}
NOWHERE = "none: it does not fit"
Planned = Plan | EvaluationPlan


def details(plan: Plan, experiment: str) -> Group:
    """A plan with everything that it was computed from."""
    facts = Table.grid(padding=(0, 2))
    for name, text in {
        "on": f"{machine(plan)}, {plan.gpu.memory_gb:,.0f} GB each",
        "tuned": _tuned(plan),
        "parameters": f"{short(plan.sizes.parameters)}, of which"
        f" {short(plan.trained_parameters)} are trained",
        "tokens": f"{short(plan.tokens)} in {plan.steps:,} step{'s' * (plan.steps != 1)}"
        f" of {plan.job.tokens_per_step:,} ({plan.load.source})",
        "computation": f"{plan.flops:.2g} FLOP",
        "time": _time(plan),
        "price": price(plan),
    }.items():
        facts.add_row(name, text)
    memory = Table("memory per rank", "GB", box=None, padding=(0, 2), pad_edge=False)
    memory.columns[1].justify = "right"
    for name, needed in plan.memory.items():
        memory.add_row(name, f"{needed / GB:.2f}")
    memory.add_row("total", f"{plan.needed / GB:.2f}")
    title = f"{plan.model.key}, experiment {experiment}"
    return Group(title, "", facts, "", memory, "", _verdict(plan))


def markdown(plans: Sequence[Plan]) -> str:
    """One row per plan."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    rows += [
        [
            f"`{plan.model.key}`",
            short(plan.sizes.parameters),
            _tuned(plan),
            machine(plan),
            memory_cell(plan),
            short(plan.tokens),
            _time(plan).partition(",")[0],
            price(plan).partition(":")[0],
        ]
        for plan in plans
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _tuned(plan: Plan) -> str:
    way = f"LoRA of rank {plan.lora_rank}" if plan.lora_rank else TUNED[plan.job.trainable]
    checkpointed = ", activation checkpointing" if plan.activation_checkpointing else ""
    return f"{way}, {plan.job.optimizer}, {'bf16' if plan.bf16 else 'fp32'}{checkpointed}"


def _time(plan: Plan) -> str:
    return f"{time_range(plan.seconds)}, {_speed(plan)}" if plan.fits else NOWHERE


def _speed(plan: Plan) -> str:
    """Where a time comes from."""
    if plan.gpu.key == "cpu":
        return f"measured here: {plan.speed.of_block:.2g} s a block of {plan.job.block_tokens:,} tokens"
    low, high = plan.utilisation
    return f"assuming {low:.0%} to {high:.0%} of the peak of {plan.gpu.tflops:,.3g} TFLOP/s"


def _verdict(plan: Plan) -> str:
    assert plan.gpu.memory_gb is not None
    total = plan.gpu.memory_gb
    room = f"{USABLE * total:,.1f} GB are usable ({USABLE:.0%} of {total:,.1f} GB)"
    needs = f"it needs {plan.needed / GB:,.1f} GB, and {room}"
    if plan.fits:
        return f"It fits: {needs}."
    ways = "; ".join(plan.ways_out())
    # A GPU takes at least a block of each step: with more of them, more GPUs can share the weights.
    none = f"no GPU that the catalogue has; raise tuning.tokens_per_step, now {plan.job.tokens_per_step:,}"
    return f"It does not fit: {needs}. What would fit: {ways or none}."


def machine(plan: Planned) -> str:
    """How many of which GPU."""
    return f"{plan.gpus} x {plan.gpu.key}"


def memory_cell(plan: Planned) -> str:
    """What a GPU needs of what it has."""
    fault = "" if plan.fits else ": does not fit"
    return f"{plan.needed / GB:,.1f} of {plan.gpu.memory_gb:,.0f} GB{fault}"


def price(plan: Planned) -> str:
    """The least and the most, in dollars."""
    if not plan.fits:
        return NOWHERE
    if plan.dollars is None:
        return "none"
    low, high = (
        f"${dollars:,.0f}" if dollars >= 10 else f"${dollars:.2f}" for dollars in plan.dollars
    )
    return f"{low} to {high}: check your provider"


def time_range(seconds: tuple[float, float]) -> str:
    """The least and the most, or one where they read alike."""
    low, high = map(duration, seconds)
    return low if low == high else f"{low} to {high}"


def short(number: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
