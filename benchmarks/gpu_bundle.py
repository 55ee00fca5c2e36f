"""What `benchmarks/gpu.py` reads and needs, as a folder that travels: `make gpu-bundle`.

Blocks of the quickstart's mixture, two suites, a tokenizer, and the wheels that a machine with torch and
transformers lacks. Wheels are for Python 3.12 on x86-64 Linux unless `--python` says otherwise. No file is
larger than 60 MiB, so the folder can travel in several transfers of that size.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.common import ROOT, base_model
from benchmarks.scoring import SYMBOLS, TWO_CLASSES, Case, write_inputs

BUNDLE = ROOT / "dist" / "gpu"
BLOCKS, TOKENIZER, WHEELS = "blocks-{}.parquet", "tokenizer", "wheels"
COUNTS = {2_048: 512, 8_192: 48}
PROMPTS = 6_000  # fill them
CASES = {
    "shared": Case("shared", TWO_CLASSES, SYMBOLS, contexts=16, queries=50, bar=0),
    "per-query": Case("per query", TWO_CLASSES, SYMBOLS, contexts=200, queries=1, bar=0),
}
HAS = ("torch", "transformers")  # packages of the other machine, with all that they require
JOBS = ("symtune_pipeline.tuning", "symtune_pipeline.evaluation")


def write_bundle(folder: Path, counts: Mapping[int, int], prompts: int, model: str) -> None:
    """So many blocks by their tokens, suites and tokenizer, by that of a model of the catalogue."""
    from transformers import AutoTokenizer

    from benchmarks.tuning import write_blocks  # which needs packages that the other machine lacks

    folder.mkdir(parents=True, exist_ok=True)
    base = base_model(model)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / TOKENIZER)
    for tokens, count in counts.items():
        write_blocks(folder / BLOCKS.format(tokens), base, tokens, count, prompts)
    for name, case in CASES.items():
        (folder / name).mkdir(exist_ok=True)
        write_inputs(folder / name, case)


def download_wheels(folder: Path, python: str) -> None:
    """What the jobs need on another machine beside what it has."""
    from resources.wheels import download, needed  # with Dagster, which the other machine lacks

    there = with_requirements(HAS)
    found = {k: v for job in JOBS for k, v in needed(job, python, "x86_64", HAS).items()}
    download({name: v for name, v in found.items() if name not in there}, folder, python, "x86_64")


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """Packages and what they require, by their names in the index; extras are left out."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            required = map(Requirement, requires(name) or ())
        except PackageNotFoundError:  # that of another system
            continue
        waiting += [
            each.name for each in required if not each.marker or each.marker.evaluate({"extra": ""})
        ]
    return seen


def main() -> None:
    """Fill the folder and say how large it is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_bundle")
    parser.add_argument("--python", default="3.12", help="the other machine's version")
    python = parser.parse_args().python
    write_bundle(BUNDLE, COUNTS, PROMPTS, "smollm2-135m")
    download_wheels(BUNDLE / WHEELS, python)
    size = sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file())
    print(f"{BUNDLE.relative_to(ROOT)}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
