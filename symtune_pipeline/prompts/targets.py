"""Kinds of targets, which are the tokens of labels, and which of them a loss trains on."""

from __future__ import annotations

from typing import Final

from symtune_pipeline.sections import LossName

# A label is the first of its class in the prompt, one of a class that was seen before, or the query's.
FIRST, SEEN, QUERY = 0, 1, 2
# The least kind of target that each loss trains on. A class's first label in a prompt is known
# from nothing before it, so no loss asks for it.
LEAST_KIND: Final[dict[LossName, int]] = {"all_labels": SEEN, "final_label": QUERY}
