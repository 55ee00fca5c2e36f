"""Which sets are evaluated and not tuned on: as the catalogue says, by a name, or by a list."""

from __future__ import annotations

from symtune_pipeline.catalog.datasets import Dataset, all_datasets, keys_named
from symtune_pipeline.errors import UserError

PAPER = "paper"
# PICL's (Gu et al. 2023, arXiv 2305.09137), but SST-5, which the catalogue lacks.
NAMED = {"picl7": ("sst2", "subj", "rt", "rte", "agn", "cb")}
TYPE = "held_out_"

Split = str | tuple[str, ...]


def evaluated(split: Split) -> frozenset[str] | None:
    """The keys of the sets that are evaluated, all others being tuned on; None: as the catalogue says.

    Raises UserError for a name or a set that is not known.
    """
    if split == PAPER:
        return None
    if isinstance(split, tuple):
        return frozenset(key for name in split for key in keys_named(name))
    if split in NAMED:
        return frozenset(NAMED[split])
    of_type = [key for key, entry in all_datasets().items() if split == TYPE + _word(entry)]
    if not of_type:
        types = sorted({TYPE + _word(entry) for entry in all_datasets().values()})
        raise UserError(
            f"there is no split '{split}'; choose a list of sets or one of"
            f" {', '.join((PAPER, *NAMED, *types))}"
        )
    return frozenset(of_type)


def as_split(dataset: Dataset, held_out: frozenset[str] | None) -> Dataset:
    """The set in the role that the split gives it, with the files that the role reads."""
    if held_out is None:
        return dataset
    role = "evaluation" if dataset.key in held_out else "tuning"
    if role == dataset.role:
        return dataset
    hub = dataset.hub
    if hub and role == "tuning":
        hub = hub.model_copy(update={"splits": {"train": hub.splits["train"]}})
    elif hub and hub.held_out:
        hub = hub.model_copy(update={"splits": hub.splits | {"test": hub.held_out}})
    return dataset.model_copy(update={"role": role, "hub": hub})


def _word(dataset: Dataset) -> str:
    return dataset.task_type.replace(" ", "_")
