"""The kinds of faults, and how often each is tried."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

from faults import damage, inputs, runs
from faults.outcome import Kind, Outcome

# The longest first: two are tried at a time.
KINDS: dict[str, tuple[Kind, int]] = {
    "ranks": (partial(runs.killed, launcher="torchrun"), 25),
    "kills": (runs.killed, 25),
    "bucket": (runs.on_a_bad_bucket, 20),
    "disk": (runs.on_a_full_disk, 10),
    "objects": (damage.in_a_bucket, 150),
    "inputs": (inputs.odd, 20_000),
    "checkpoints": (damage.in_checkpoints, 50),
    "store": (damage.in_a_store, 1_000),
}


def tried(kind: str, seed: int, share: float, folder: Path) -> Counter[str]:
    """Try one kind; returns how often it ended how."""
    work, count = KINDS[kind]
    found: Counter[str] = Counter()
    started = time.monotonic()
    for outcome in work(Random(f"{seed} {kind}"), folder / kind, max(1, round(count * share))):
        found[outcome.result] += 1
        if outcome.result != "survived":
            _print_harm(kind, outcome)
    print(f"{kind}: {counts(found)}, in {time.monotonic() - started:.0f} s", flush=True)
    return found


def _print_harm(kind: str, outcome: Outcome) -> None:
    what = outcome.what.encode(errors="backslashreplace").decode()
    seen = outcome.seen.encode(errors="backslashreplace").decode()
    print(f"{kind}: {outcome.result}: {what[:500]}\n    {seen}", flush=True)


def counts(found: Counter[str]) -> str:
    """How many were tried, and how they ended."""
    kinds = ("survived", "lost", "silently wrong")
    return f"{found.total()} tried, " + ", ".join(f"{found[each]} {each}" for each in kinds)
