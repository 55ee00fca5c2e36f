"""The accelerators, their prices, and what is assumed of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from symtune_pipeline.catalog.facts import Fact, named, read_beside


class Gpu(Fact):
    """An accelerator. A CPU's memory and speed are those of the machine, so they are left out."""

    key: str
    memory_gb: float | None = None
    tflops: float | None = None  # dense bf16
    dollars_per_hour: tuple[float, float] | None = None  # cheapest and dearest
    runtime_gb: float = 2.0  # of a process before it has a model
    fragmentation: float = 0.0  # free memory between activations, in proportion to them


@cache
def all_gpus() -> Mapping[str, Gpu]:
    """The accelerators by key, small to large, and `cpu`."""
    return {key: Gpu(key=key, **entry) for key, entry in read_beside(__file__).items()}


def find_gpu(key: str) -> Gpu:
    """The accelerator called `key`; raises UserError with the known keys for any other."""
    return named(all_gpus(), key, "GPU")
