"""Where tables, models and reports are kept: folders with a manifest, never half-written.

    <root>/<key>[/<partition>]/manifest.json
    <root>/<key>[/<partition>]/<version>/...

An artifact is written into a folder beside, renamed to its version (a hash of its files), and takes
effect when its manifest is replaced. Readers check every file against the manifest. This module
knows no artifact by name, and of its files only that Parquet is a table; `bucket` keeps the same on
s3.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from uuid import uuid4

import polars as pl
import psutil

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import (
    TABLE,
    checksums,
    content_hash,
    leads_out,
    name_fault,
    read_table,
    scan_table,
    sealed,
    sha256,
    unsealed,
    write_text,
)

MANIFEST = "manifest.json"
WORK = "work"  # the folder, beside the artifacts, of what is not finished
# What is written beside: an artifact by host and process, a manifest by process. The host is what is left of
# the process, so it is matched as short as can be: the random part may look like a process.
LEFT = re.compile(r"(\.writing-.+?|\.manifest\.json)-(\d{1,10})(?:-[0-9a-f]{8})?")
ABANDONED = 3 * 24 * 60 * 60  # seconds without a write, after which another host's writer is gone
VERSION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Manifest:
    """What an artifact holds: SHA-256 by file name, and the rows of its tables."""

    version: str
    files: dict[str, str]
    rows: dict[str, int]
    made_from: str  # hash of everything it was made from: an equal one need not be made again
    # Versions of the artifacts it was made from, by path; earlier releases did not note them.
    inputs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str, artifact: str) -> Manifest:
        """Raises ValueError or TypeError for what is not, whole, the manifest of the artifact."""
        kept = unsealed(text)
        if kept.pop("artifact", None) != artifact:
            raise ValueError("it is that of another artifact")
        manifest = cls(**kept)
        if not VERSION.fullmatch(manifest.version) or any(map(leads_out, manifest.files)):
            raise ValueError("a name that no store has written")
        return manifest

    def as_json(self, artifact: str) -> str:
        """The text of the file for the artifact at that path of the store."""
        return sealed({"artifact": artifact, **asdict(self)})


class Damaged(UserError):
    """A file of an artifact is missing or was changed; making the artifact again mends it."""


class Store:
    """Artifacts by key and partition under one local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = str(root)  # for messages

    @contextmanager
    def writing(
        self,
        key: str,
        partition: str | None = None,
        made_from: str = "",
        inputs: Mapping[str, str] = MappingProxyType({}),
    ) -> Iterator[Path]:
        """An empty folder to write an artifact into; it takes effect when the block ends well."""
        home = self.root / artifact_path(key, partition)
        home.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(home)
        beside = home / f"{_writing_here()}-{os.getpid()}-{uuid4().hex[:8]}"
        beside.mkdir()
        try:
            yield beside
            self._publish(key, partition, _keep(home, beside, made_from, inputs))
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def read_table(self, key: str, partition: str | None = None, name: str = TABLE) -> pl.DataFrame:
        """A table of an artifact."""
        return read_table(self.folder(key, partition) / name)

    def read_input(self, key: str, name: str) -> pl.DataFrame:
        """The table of an input of an artifact that holds numbers of its rows; raises as `input_of` does."""
        self.input_of(key, name)
        return self.read_table(name)

    def input_of(self, key: str, name: str) -> Manifest:
        """The manifest of an input of an artifact; raises UserError where it has changed since."""
        noted, now = self.manifest(key).inputs, self.manifest(name)
        if noted.get(name, now.version) != now.version:
            raise UserError(
                f"'{key}' in {self.address} was made from an earlier version of '{name}';"
                f" materialise '{key}' first."
            )
        return now

    def table_once(
        self, key: str, partition: str, made_from: str, build: Callable[[], pl.DataFrame]
    ) -> pl.DataFrame:
        """The kept table where it was made from the same; otherwise the one that `build` makes."""
        if self.up_to_date(key, partition, made_from) is None:
            with self.writing(key, partition, made_from) as folder:
                build().write_parquet(folder / TABLE)
        return self.read_table(key, partition)

    def up_to_date(self, key: str, partition: str | None, made_from: str) -> Manifest | None:
        """The manifest where the artifact was made from the same and is undamaged, else None."""
        try:
            known = self.find(key, partition)
            if known is None or known.made_from != made_from:
                return None
            self.folder(key, partition)
        except Damaged:
            return None
        return known

    def is_whole(self, key: str, partition: str | None) -> bool:
        """Whether the artifact was made and is undamaged."""
        try:
            if self.find(key, partition) is None:
                return False
            self.folder(key, partition)
        except Damaged:
            return False
        return True

    def folder(self, key: str, partition: str | None = None) -> Path:
        """The folder of an artifact, after checking every file against its manifest.

        Raises UserError where it was never made, and Damaged where a file is missing or was changed.
        """
        manifest = self.manifest(key, partition)
        folder = self.location(key, partition, manifest)
        for name, digest in manifest.files.items():
            path = folder / name
            if not _holds(path, digest) and not (self._fetch(path) and _holds(path, digest)):
                state = "does not match its manifest" if path.is_file() else "is missing"
                where = self.address_of(key, partition)
                raise Damaged(
                    f"File {where}/{manifest.version}/{name} {state}; materialise '{key}' again."
                )
        return folder

    def location(self, key: str, partition: str | None, manifest: Manifest) -> Path:
        """Where the files of a manifest lie on this machine, unchecked."""
        return self.root / artifact_path(key, partition) / manifest.version

    def address_of(self, key: str, partition: str | None = None) -> str:
        """The folder or s3:// address of an artifact: its manifest, and a folder with its version."""
        return f"{self.address}/{artifact_path(key, partition)}"

    def manifest(self, key: str, partition: str | None = None) -> Manifest:
        """The manifest of an artifact; raises UserError where it was never made, or as `find` does."""
        found = self.find(key, partition)
        if found is None:
            which = f"'{key}' for partition '{partition}'" if partition else f"'{key}'"
            raise UserError(
                f"{self.address_of(key, partition)} holds nothing yet; materialise {which} first."
            )
        return found

    def find(self, key: str, partition: str | None = None) -> Manifest | None:
        """The manifest of an artifact, or None where it was never made; raises Damaged."""
        path = artifact_path(key, partition)
        text = self._manifest_text(path)
        if text is None:
            return None
        try:
            return Manifest.from_json(text, path)
        except (ValueError, TypeError) as error:
            raise Damaged(
                f"File {self.address_of(key, partition)}/{MANIFEST} is damaged; materialise '{key}' again."
            ) from error

    def artifacts(self, key: str | None = None) -> list[tuple[str, str | None]]:
        """Key and partition of all artifacts that have been made, or of those of one key, in order."""
        homes = [
            path.parent.parts for path in self._manifests(key) if not leads_out(path.as_posix())
        ]
        return [(home[0], home[1] if len(home) == 2 else None) for home in sorted(homes)]

    def all_keys(self) -> list[str]:
        """The keys of all artifacts that have been made, in order of name."""
        return sorted({key for key, _ in self.artifacts()})

    def partitions(self, key: str) -> list[str]:
        """The partitions of an artifact that have been made, in order of name."""
        return [partition for _, partition in self.artifacts(key) if partition]

    # What a store that is not a local folder does in its own way.

    def read_text(self, name: str) -> str | None:
        """A small file beside the artifacts, or None where there is none."""
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_text(self, name: str, text: str) -> None:
        """Write a small file beside the artifacts."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_text(self.root / name, text)

    def _manifests(self, key: str | None) -> list[PurePath]:
        """The paths of all manifests, or of those of one key, below the root."""
        patterns = [f"{key or '*'}/{MANIFEST}", f"{key or '*'}/*/{MANIFEST}"]
        return [
            path.relative_to(self.root) for pattern in patterns for path in self.root.glob(pattern)
        ]

    def _manifest_text(self, name: str) -> str | None:
        try:
            return (self.root / name / MANIFEST).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def _fetch(self, path: Path) -> bool:
        """Whether a file that is missing or damaged was replaced by another copy."""
        return False

    def _publish(self, key: str, partition: str | None, manifest: Manifest) -> None:
        """Let a version that is in the artifact's folder take effect, and remove the others."""
        home = self.root / artifact_path(key, partition)
        write_text(home / MANIFEST, manifest.as_json(artifact_path(key, partition)))
        remove_others(home, manifest.version)


def artifact_path(key: str, partition: str | None) -> str:
    """The path of an artifact below the root; raises UserError for a partition that is no name."""
    if partition is None:
        return key
    if fault := name_fault(partition):
        raise UserError(f"{partition!r} cannot name a partition of '{key}': {fault}; rename it.")
    return f"{key}/{partition}"


def _keep(home: Path, beside: Path, made_from: str, inputs: Mapping[str, str]) -> Manifest:
    """Rename a folder to its version, and describe it."""
    files = checksums(beside)
    rows = {
        name: scan_table(beside / name).select(pl.len()).collect().item()
        for name in files
        if name.endswith(".parquet")
    }
    version = content_hash(files)[:16]
    final = home / version
    if not (final.is_dir() and all(_holds(final / name, files[name]) for name in files)):
        shutil.rmtree(final, ignore_errors=True)  # the same content, damaged since
        os.rename(beside, final)
    return Manifest(version, files, rows, made_from, dict(inputs))


def remove_others(home: Path, version: str) -> None:
    """Remove all versions of an artifact but one, and nothing else that lies there."""
    for old in home.iterdir():
        if old.is_dir() and old.name != version and VERSION.fullmatch(old.name):
            shutil.rmtree(old)


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _writing_here() -> str:
    """How the folders begin that processes of this host write into; a pid means nothing elsewhere."""
    return f".writing-{socket.gethostname()}"


def _remove_leftovers(home: Path) -> None:
    """What processes that were killed while writing have left.

    Of this host the process that is gone says so. Of others, as every container is one, nothing does
    but that nothing was written there for days.
    """
    for path in home.iterdir():
        left = LEFT.fullmatch(path.name)
        if not left:
            continue
        gone = left[1] == _writing_here() and not psutil.pid_exists(int(left[2]))
        if not (gone or time.time() - _last_written(path) > ABANDONED):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _last_written(path: Path) -> float:
    """When something below a folder was written last, as seconds since 1970."""
    try:
        return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except FileNotFoundError:  # it is at work
        return time.time()
