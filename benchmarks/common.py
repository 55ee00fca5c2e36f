"""What every benchmark shares: measuring in a process of its own, and the table at the end."""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.environment import home_folder
from symtune_pipeline.models.weights import prepare_base_model

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SYMTUNE = str(Path(sys.executable).with_name("symtune"))  # the command, as it is installed


@dataclass(frozen=True)
class Record:
    """One line of a benchmark. `ratio` says how much better ours is; `bar` is what it must reach."""

    measure: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None = None
    bar: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Measured:
    """What a call returned, its wall-clock seconds, and its process's largest memory in bytes."""

    value: Any
    seconds: float
    peak_bytes: int


def measured(call: Callable[..., Any], *arguments: Any) -> Measured:
    """Run a module-level function in a fresh process, so that nothing is warm but the disk cache."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(_timed, call, *arguments).result()


def _timed(call: Callable[..., Any], *arguments: Any) -> Measured:
    started = time.perf_counter()
    value = call(*arguments)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(value, seconds, peak)


def base_model(key: str = "smollm2-135m") -> Path:
    """The folder of a base model, made once."""
    folder = home_folder() / "benchmarks" / key
    if not (folder / "provenance.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        prepare_base_model(find_model(key), folder, print)
    return folder


def report(name: str, records: list[Record]) -> None:
    """Print the table and write `benchmarks/results/<name>.json`."""
    write(name, records)
    print_table(records)


def write(name: str, records: list[Record]) -> None:
    """Write `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps([asdict(r) for r in records], indent=1) + "\n", encoding="utf-8")


def print_table(records: list[Record]) -> None:
    """One line a record."""
    table = Table("measure", "ours", "peer", "unit", "ratio", "bar", "holds")
    for r in records:
        table.add_row(
            r.measure,
            f"{r.ours:,.4g}" if r.ours < 1_000 else f"{r.ours:,.0f}",
            "" if r.peer is None else f"{r.peer:,.4g}",
            r.unit,
            "" if r.ratio is None else f"{r.ratio:,.1f}",
            r.bar,
            "" if r.holds is None else "yes" if r.holds else "NO",
        )
    Console(width=110).print(table)
