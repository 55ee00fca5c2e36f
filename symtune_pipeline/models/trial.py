"""Short random strings on which ways of running a model are tried, and when two give the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from symtune_pipeline.models.opening import vocabulary
from symtune_pipeline.models.plain import run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROOT, STEM = 6, 3  # tokens that all strings begin with, and that two of them go on with
LENGTHS = 11, 12, 14
NOT_FINITE = (
    "Model {} returned a log-probability that is no finite number; its weights are damaged or its precision"
    " is too low."
)
# Differences of a token's log-probabilities, as a share of how far these spread: of most tokens, and of any.
# Seen in full precision: 1e-5 of right models and 0.01 or more of wrong ones; tuned weights magnify rounding
# at single tokens, to 2e-4 seen.
TOLERANCE, TOLERANCE_ANY = 1e-4, 3e-3
# In half precision right models differ by up to 0.1 in most rows, and where rounding sends a token to
# another expert by more. There a second look is sharper: whether what must not matter changes anything.
TOLERANCE_HALF, UNMOVED_HALF = 0.25, 0.01
# More padding moves right models by up to 0.012 on an H100, and wrong ones by 0.6 or more; of tiny random
# ones ProphetNet and XLM by no more than right ones.
UNMOVED_PADDED = 0.05


def class_name(model: PreTrainedModel) -> str:
    """The name of the model's class, which FSDP2 changes."""
    return type(model).__name__.removeprefix("FSDP")


def random_strings(model: PreTrainedModel) -> list[torch.Tensor]:
    """Random tokens; the strings begin alike, the first two for longer."""
    rng = np.random.default_rng(0)
    rows = vocabulary(model)
    strings = [torch.from_numpy(rng.integers(rows, size=length)) for length in LENGTHS]
    strings[1][: ROOT + STEM] = strings[0][: ROOT + STEM]
    strings[2][:ROOT] = strings[0][:ROOT]
    return strings


def run_alone(model: PreTrainedModel, string: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [T, V]."""
    return run(model, input_ids=string[None].to(model.device))[0].float().log_softmax(dim=-1)


def same_to_rounding(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities [T, V] are equal, to rounding; NaN is equal to NaN."""
    if found.shape != expected.shape:
        return False
    differences_T = _differences(found, expected)
    if dtype.itemsize >= 4:
        return bool(differences_T.median() <= TOLERANCE and differences_T.max() <= TOLERANCE_ANY)
    return bool(differences_T.median() <= TOLERANCE_HALF)


def is_unmoved(found: torch.Tensor, other: torch.Tensor, tolerance: float = UNMOVED_HALF) -> bool:
    """Whether a model gives the same after a change that must not matter."""
    return bool((_differences(found, other) <= tolerance).all())


def _differences(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Root mean square of each row's differences, relative to the spread of its values [T]."""
    spread = (expected - expected.mean(dim=-1, keepdim=True)).pow(2).mean(dim=-1).sqrt()
    differences = (found - expected).pow(2).mean(dim=-1).sqrt()
    both_broken = found.isnan().any(dim=-1) & expected.isnan().any(dim=-1)
    return (differences / spread).masked_fill(both_broken, 0.0)
