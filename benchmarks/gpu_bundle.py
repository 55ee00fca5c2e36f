"""What `benchmarks/gpu.py` reads and needs, as a folder that travels: `make gpu-bundle`.

Blocks of the quickstart's mixture, two suites, a tokenizer, and the wheels that a machine with torch and
transformers lacks. Wheels are for Python 3.12 on x86-64 Linux unless `--python` says otherwise. No file is
larger than 60 MiB, so the folder can travel in several transfers of that size.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from importlib.metadata import requires
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
HAS = ("torch", "transformers")  # packages of the other machine
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


def lacking(python: str) -> dict[str, str]:
    """What the jobs need on another machine beside what it has: packages and their versions here."""
    from resources.wheels import needed  # with Dagster, which the other machine lacks

    there = direct_requirements(HAS).union(HAS)
    found = {k: v for job in JOBS for k, v in needed(job, python, "x86_64", HAS).items()}
    return {name: version for name, version in found.items() if name not in there}


def direct_requirements(names: Iterable[str]) -> set[str]:
    """What packages require themselves, without extras: of these, others beside them could break them.

    What those require in turn differs between versions of transformers, and travels.
    """
    return {
        canonicalize_name(each.name)
        for name in names
        for each in map(Requirement, requires(name) or ())
        if not each.marker or each.marker.evaluate({"extra": ""})
    }


def main() -> None:
    """Fill the folder and say how large it is."""
    from resources.wheels import download

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_bundle")
    parser.add_argument("--python", default="3.12", help="the other machine's version")
    python = parser.parse_args().python
    write_bundle(BUNDLE, COUNTS, PROMPTS, "smollm2-135m")
    download(lacking(python), BUNDLE / WHEELS, python, "x86_64")
    size = sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file())
    print(f"{BUNDLE.relative_to(ROOT)}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
