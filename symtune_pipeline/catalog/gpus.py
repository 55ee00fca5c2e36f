"""The accelerators, their prices, and what is assumed of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import inf

from symtune_pipeline.catalog.facts import Fact, named, read_beside

GB = 1e9
USABLE = 0.9  # of the memory: the rest is lost between tensors


class Gpu(Fact):
    """An accelerator. A CPU's memory and speed are those of the machine, so they are left out."""

    key: str
    memory_gb: float | None = None
    tflops: float | None = None  # dense bf16
    tb_per_second: float | None = None  # from its memory
    dollars_per_hour: tuple[float, float] | None = None  # cheapest and dearest
    runtime_gb: float = 2.0  # of a process before it has a model
    fragmentation: float = 0.0  # free memory between activations, in proportion to them

    def dollars(self, seconds: tuple[float, float], gpus: int) -> tuple[float, float] | None:
        """The price of so many GPUs for so long, least and most; None where nothing is rented."""
        if self.dollars_per_hour is None:
            return None
        (fast, slow), (cheap, dear) = seconds, self.dollars_per_hour
        return fast / 3_600 * gpus * cheap, slow / 3_600 * gpus * dear


# What a job reaches of a GPU's peak, least and most, for models of up to so many parameters. Measured on an
# H100 and an H200 while tuning with compiled layers: 13 to 18% of it at 135M, 30 to 33% at 360M and 44% at
# 1.7B (docs/results.md); and 7% at 135M without compiling. At 8B, 22 to 39% were published.
UTILISATION = ((250e6, 0.07, 0.18), (1e9, 0.15, 0.33), (inf, 0.20, 0.45))


def utilisation(parameters: int) -> tuple[float, float]:
    """The share of the peak that is assumed, least and most."""
    return next((low, high) for most, low, high in UTILISATION if parameters <= most)


@cache
def all_gpus() -> Mapping[str, Gpu]:
    """The accelerators by key, small to large, and `cpu`."""
    return {key: Gpu(key=key, **entry) for key, entry in read_beside(__file__).items()}


def find_gpu(key: str) -> Gpu:
    """The accelerator called `key`; raises UserError with the known keys for any other."""
    return named(all_gpus(), key, "GPU")
