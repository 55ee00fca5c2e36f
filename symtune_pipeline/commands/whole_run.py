"""What a run of everything needs of an experiment, asked before it starts."""

from __future__ import annotations

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment


def missing_roles(experiment: Experiment) -> str | None:
    """What the report of a whole run will lack, in a sentence; None where it is nothing.

    Raises UserError where there is nothing to tune on, or nothing to evaluate.
    """
    roles, asked = {entry.role for entry in experiment.datasets()}, experiment.evaluation
    way_out = "add one to data.own or data.datasets, or set data.source to generated or hub"
    if "tuning" not in roles:
        raise UserError(f"Experiment '{experiment.name}' has no set to tune on; {way_out}.")
    if "evaluation" in roles:
        return None
    lacking = f"Experiment '{experiment.name}' has no set with 'role: evaluation'"
    concepts = asked.list_functions + asked.turing_programs + sum(asked.concepts.values())
    if not concepts and not asked.published:
        raise UserError(f"{lacking} and no algorithmic concept, so no result; {way_out}.")
    return f"{lacking}, so the report will only have algorithmic benchmarks; {way_out}."
