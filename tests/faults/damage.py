"""Bits that flip and files that end early, in a store, in a bucket and in checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import boto3
from tiny_models import tiny_job

from faults.outcome import Outcome, Result
from faults.runs import golden
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import checksums, sha256
from symtune_pipeline.store.bucket import Bucket, BucketStore
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tuning.job import run_job

SMALL = 1_000_000  # bytes of an artifact of which a bucket's copy is damaged


def damaged(content: bytes, random: Random) -> tuple[bytes, str]:
    """A file's content after a fault, and which."""
    place = random.randrange(max(1, len(content)))
    fault = random.choice(["flip", "flip", "flip", "cut", "zeros", "more"])
    if fault == "cut" or not content:
        return content[:place], f"cut at {place}"
    if fault == "zeros":
        return content[:place] + bytes(len(content) - place), f"zeros from {place}"
    if fault == "more":
        return content + random.randbytes(8), "8 bytes more"
    bit = 1 << random.randrange(8)
    flipped = bytes([content[place] ^ bit])
    return content[:place] + flipped + content[place + 1 :], f"bit {bit} of byte {place}"


def in_a_store(random: Random, folder: Path, count: int) -> Iterator[Outcome]:
    """A file of an artifact, the manifest too; then the artifact is read."""
    whole = golden(folder)
    root = shutil.copytree(whole.store.root, folder / "damaged")
    artifacts = whole.store.artifacts()
    for _ in range(count):
        key, partition = random.choice(artifacts)
        home = root / key / (partition or "")
        path = random.choice(
            sorted(p for p in home.rglob("*") if p.is_file() and p.name != ".lock")
        )
        before = path.read_bytes()
        content, fault = damaged(before, random)
        path.write_bytes(content)
        what = f"{path.relative_to(root)}: {fault}"
        yield Outcome(what, *_read(whole.store, Store(root), key, partition))
        path.write_bytes(before)


def in_a_bucket(random: Random, folder: Path, count: int) -> Iterator[Outcome]:
    """An object of a bucket, read by a machine with an empty cache."""
    whole = golden(folder)
    there = Bucket("s3://bucket/damaged")
    small = [
        (key, partition)
        for key, partition in whole.store.artifacts()
        if sum(p.stat().st_size for p in whole.store.folder(key, partition).iterdir()) < SMALL
    ]
    for key, _ in small:
        there.upload_folder(whole.store.root / key, key)
    client = boto3.client("s3")
    names = there.keys()
    for number in range(count):
        key, partition = random.choice(small)
        below = [each for each in names if each.startswith(f"{key}/")]
        name = random.choice([each for each in below if not each.endswith(".lock")])
        place = {"Bucket": "bucket", "Key": f"damaged/{name}"}
        kept = client.get_object(**place)
        before = kept["Body"].read()
        content, fault = damaged(before, random)
        client.put_object(**place, Body=content, Metadata=kept["Metadata"])
        store = BucketStore(folder / f"cache {number}", there)
        yield Outcome(f"{name}: {fault}", *_read(whole.store, store, key, partition))
        client.put_object(**place, Body=before, Metadata=kept["Metadata"])


def in_checkpoints(random: Random, folder: Path, count: int) -> Iterator[Outcome]:
    """A file of a job's checkpoints; then the job goes on to its end."""
    undisturbed = tiny_job(folder / "undisturbed", epochs=2)
    right = sha256(run_job(undisturbed, _silent) / "model.safetensors")
    config = tiny_job(folder / "damaged job", epochs=2)
    steps = _stopped_half_way(config)
    assert steps, "no checkpoint"
    kept = shutil.copytree(config.output_folder, folder / "kept job")
    for _ in range(count):
        shutil.rmtree(config.output_folder)
        shutil.copytree(kept, config.output_folder)
        below = config.output_folder / "checkpoints"
        path = random.choice(sorted(path for path in below.rglob("*") if path.is_file()))
        content, fault = damaged(path.read_bytes(), random)
        path.write_bytes(content)
        what = f"{path.relative_to(below)}: {fault}"
        yield Outcome(
            what, *_told(lambda: sha256(run_job(config, _silent) / "model.safetensors"), right)
        )


def _stopped_half_way(config: Any) -> list[Path]:
    """Run a job until its first checkpoints are there."""

    class Enough(Exception):
        pass

    def say(line: str) -> None:
        if len(list((config.output_folder / "checkpoints").glob("step-*/state.json"))) > 1:
            raise Enough(line)

    with suppress(Enough):
        run_job(config, say)
    shutil.rmtree(config.output_folder / "model", ignore_errors=True)
    return list((config.output_folder / "checkpoints").glob("step-*/state.json"))


def _read(whole: Store, store: Store, key: str, partition: str | None) -> tuple[Result, str]:
    """How reading an artifact ends, compared with what it was."""
    right = (whole.manifest(key, partition), checksums(whole.folder(key, partition)))
    return _told(
        lambda: (store.manifest(key, partition), checksums(store.folder(key, partition))), right
    )


def _told(work: Callable[[], object], right: object) -> tuple[Result, str]:
    """Survived if work says what is wrong, or finds what is right."""
    try:
        found = work()
    except UserError as error:
        one = "\n" not in str(error)
        return ("survived", "") if one else ("lost", f"more than a sentence: {error}")
    except Exception as error:
        return "lost", f"{type(error).__name__}: {error}"
    return ("survived", "") if found == right else ("silently wrong", f"{found}"[:300])


def _silent(line: str) -> None:
    """What a job says is not of interest."""
