"""Plans of an evaluation as a person reads them, beside those of the fine-tune."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from symtune_pipeline.catalog.gpus import GB, USABLE, utilisation
from symtune_pipeline.commands.plan_tables import (
    NOWHERE,
    machine,
    memory_cell,
    price,
    short,
    time_range,
)
from symtune_pipeline.evaluation.asking import PASS_TOKENS
from symtune_pipeline.evaluation.plan import EvaluationPlan
from symtune_pipeline.evaluation.questions import Part

COLUMNS = ["model", "answers in", "on", "held by", "memory of a GPU", "tokens", "time", "price"]


def evaluation_details(plan: EvaluationPlan) -> Group:
    """A plan with everything that it was computed from."""
    facts = Table.grid(padding=(0, 2))
    for name, text in {
        "on": f"{machine(plan)}, {plan.gpu.memory_gb:,.0f} GB each",
        "asked": f"{plan.variants} variants, in {_precision(plan)}",
        "held by": _held(plan),
        "tokens": f"{short(plan.tokens)} ({plan.questions.source})",
        "time": f"{_time(plan)}, {_speed(plan)}" if plan.fits else NOWHERE,
        **{f"  {part.name}": _of(part, plan) for part in plan.questions.parts if plan.fits},
        "price": price(plan),
    }.items():
        facts.add_row(name, text)
    memory = Table("memory of a rank", "GB", box=None, padding=(0, 2), pad_edge=False)
    memory.columns[1].justify = "right"
    for name, needed in plan.memory.items():
        memory.add_row(name, f"{needed / GB:.2f}")
    memory.add_row("together", f"{plan.needed / GB:.2f}")
    return Group(f"{plan.model.key}, evaluation", "", facts, "", memory, "", _verdict(plan))


def evaluation_markdown(plans: Sequence[EvaluationPlan]) -> str:
    """One row per plan."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    rows += [
        [
            f"`{plan.model.key}`",
            _precision(plan),
            machine(plan),
            _ranks(plan),
            memory_cell(plan),
            short(plan.tokens),
            _time(plan),
            price(plan).partition(":")[0],
        ]
        for plan in plans
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _precision(plan: EvaluationPlan) -> str:
    return "bf16" if plan.bf16 else "fp32"


def _ranks(plan: EvaluationPlan) -> str:
    return "each" if plan.ranks == 1 else f"{plan.ranks} together"


def _held(plan: EvaluationPlan) -> str:
    if plan.ranks == 1:
        return "each rank, whole"
    way = f"FSDP2: {plan.why_not_cut}" if plan.why_not_cut else "tensor parallelism"
    teams = plan.gpus // plan.ranks
    return f"{plan.ranks} ranks together ({way}), {teams} such team{'s' * (teams > 1)}"


def _of(part: Part, plan: EvaluationPlan) -> str:
    return f"{time_range(plan.seconds_of(part))}, {short(plan.variants * part.tokens)} tokens"


def _time(plan: EvaluationPlan) -> str:
    return time_range(plan.seconds) if plan.fits else NOWHERE


def _speed(plan: EvaluationPlan) -> str:
    """Where a time comes from."""
    if plan.gpu.key == "cpu":
        return f"measured here: {plan.speed.of_pass:.2g} s for {PASS_TOKENS['cpu']:,} tokens"
    low, high = utilisation(plan.sizes.parameters)
    return f"at {low:.0%} to {high:.0%} of {plan.gpu.tflops:,.3g} TFLOP/s"


def _verdict(plan: EvaluationPlan) -> str:
    assert plan.gpu.memory_gb is not None
    room = f"{USABLE * plan.gpu.memory_gb:,.1f} GB are usable"
    needs = f"it needs {plan.needed / GB:,.1f} GB, and {room}"
    if plan.fits:
        return f"It fits: {needs}."
    fewest = plan.fewest_gpus()
    way = f"Together {fewest} x {plan.gpu.key} would hold it." if fewest else "Take larger GPUs."
    return f"It does not fit: {needs}.\n{way}"
