"""What a rank needs to answer: the memory of its share of a model and of a pass.

The job asks it over how many ranks a model has to be spread, and the plan what that costs. It decides no
number of a prediction.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from symtune_pipeline.catalog.gpus import GB, USABLE, find_gpu
from symtune_pipeline.evaluation.asking import BATCH, PASS_TOKENS
from symtune_pipeline.models.sizing import Asked, asked_sizes

if TYPE_CHECKING:
    import torch

TOKENS_PER_TARGET = 8  # of a pass: label tokens are few, and each has a row of logits
FLOAT_BYTES = 4
LONG_PROMPT = 512  # tokens of one to complete, at the usual eight shots
SMALL = 4  # so often a model's files are in the memory where nothing has to be counted


def memory(sizes: Asked, ranks: int, device: str) -> dict[str, float]:
    """Bytes of one of the `ranks` that hold a model together, by what they are for.

    `device` is 'cuda' or 'cpu'. Tensor parallelism needs no layer whole, and keeps a cache of a rank's
    heads; FSDP2 gathers layers.
    """
    cut = ranks > 1 and sizes.why_not_cut(ranks) is None
    tokens, prompts = PASS_TOKENS[device], BATCH * LONG_PROMPT
    scoring = pass_bytes(sizes, tokens, ceil(tokens / TOKENS_PER_TARGET))
    completing = prompts * (sizes.cache_bytes / (ranks if cut else 1) + sizes.token_bytes)
    needed = {"weights": sizes.weights / ranks, "a pass": max(scoring, completing)}
    if ranks > 1 and not cut:
        needed["gathered"] = sizes.gathered
    if ranks == 1 and sizes.number < FLOAT_BYTES:
        needed["the LM head in float32"] = FLOAT_BYTES * sizes.lm_head
    return needed


def pass_bytes(sizes: Asked, tokens: int, targets: int) -> float:
    """Bytes of a pass of scoring at once: in a layer, or of the targets' logits and their exponentials.

    Logits are made in the model's precision, then in float32.
    """
    copy = 0 if sizes.number == FLOAT_BYTES else FLOAT_BYTES
    of_logit = sizes.number + copy + FLOAT_BYTES
    return max(tokens * sizes.token_bytes, targets * sizes.vocabulary * of_logit)


def room_of(device: torch.device, ranks_here: int) -> float:
    """Bytes that a rank has for all this, of a GPU or of its share of this machine."""
    import torch

    if device.type == "cuda":
        total, runtime = torch.cuda.mem_get_info(device)[1], find_gpu("h100").runtime_gb
    else:
        total = psutil.virtual_memory().total // ranks_here
        runtime = find_gpu("cpu").runtime_gb
    return USABLE * total - runtime * GB


def fewest_ranks(folder: Path, *, bf16: bool, device: str, ranks: int, room: float) -> int:
    """How few of the job's ranks can hold the model in a folder: a divisor of their number.

    All of them where even they lack the memory. Raises UserError where the folder describes no model.
    """
    from symtune_pipeline.models.opening import read_config

    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    config = read_config(folder)
    if SMALL * files <= room:
        return 1
    sizes = asked_sizes(config.to_dict(), bf16=bf16)
    divisors = [number for number in range(1, ranks + 1) if ranks % number == 0]
    enough = (n for n in divisors if sum(memory(sizes, n, device).values()) <= room)
    return next(enough, ranks)
