"""A folder that travels on disks: its files in parts of a size, and a list of their checksums.

    SHA256SUMS     every other file, for `sha256sum --check`; the line of parcel.json is the last
    parcel.json    whose job it is, and how many lines the list has
    <name>         a file, or its parts: <name>.part-00000 and so on

What comes back from elsewhere is copied as it is checked, and no name in it leads anywhere else.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.disk import disk_sentence
from symtune_pipeline.files import leads_out, read_bounded, read_settings, sha256, write_text

LIST, FACTS = "SHA256SUMS", "parcel.json"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")
PART = re.compile(r"(.+)\.part-\d{5}")
MOST_PARTS = 99_999
LONGEST_LIST = 100_000_000  # bytes
BLOCK = 1 << 20  # bytes that are copied at once


class Facts(BaseModel):
    """What a parcel says of itself: its job, and what the machine needs that runs it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: str
    fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$")
    part_bytes: int = Field(gt=0)  # of the largest file
    lines: int = 0  # of the list, this file's included
    python: str | None = None  # whose wheels travel along; None: none that ask for a version
    machine: str | None = None
    expects: dict[str, str] = {}  # packages that the machine brings, and their versions here


def put(source: Path, folder: Path, name: str, most: int) -> dict[str, str]:
    """Copy a file, or all files of a folder, to `name` in a folder; those above `most` bytes in parts.

    Returns the SHA-256 of each file there by its name. Raises UserError for a name that no list can
    hold, and for too many parts.
    """
    if not source.is_dir():
        return _put_file(source, folder, name, most)
    sums: dict[str, str] = {}
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        sums |= _put_file(path, folder, f"{name}/{path.relative_to(source).as_posix()}", most)
    return sums


def _put_file(source: Path, folder: Path, name: str, most: int) -> dict[str, str]:
    if leads_out(name) or not name.isprintable() or PART.fullmatch(name):
        raise UserError(f"File {source} has a name that cannot travel ({name!r}); rename it.")
    count = max(1, -(-source.stat().st_size // most))
    if count > MOST_PARTS:
        raise UserError(
            f"File {source} would be {count:,} parts; raise part_gb in the launcher file."
        )
    with source.open("rb") as file:
        names = [f"{name}.part-{number:05}" for number in range(count)] if count > 1 else [name]
        return {each: _copy(file, folder / each, most) for each in names}


def seal(folder: Path, facts: Facts, sums: Mapping[str, str]) -> None:
    """Write what a folder says of itself, and the list of its files, whose SHA-256 are `sums`."""
    told = facts.model_copy(update={"lines": len(sums) + 1})
    write_text(folder / FACTS, told.model_dump_json(indent=1))
    lines = [*sorted(sums.items()), (FACTS, sha256(folder / FACTS))]
    write_text(folder / LIST, "".join(f"{digest}  {name}\n" for name, digest in lines))


def read_facts(folder: Path) -> Facts:
    """What a folder says of itself, as its list has it; raises UserError where it cannot be read."""
    digest = _listed(folder)[FACTS]
    try:
        text = read_settings(_ordinary(folder / FACTS))
        if hashlib.sha256(text.encode()).hexdigest() == digest:
            return Facts.model_validate_json(text)
    except FileNotFoundError as error:
        raise UserError(f"File {folder / FACTS} is missing; copy it again.") from error
    except (OSError, ValidationError, UnicodeDecodeError):
        pass
    raise UserError(f"File {folder / FACTS} was changed on the way; copy it again.")


def unpack(folder: Path, into: Path) -> None:
    """Copy the files of a parcel, joined again, into a new folder.

    Raises UserError, which names the file, where one is missing, was changed, or is in no list, and
    for whatever is no ordinary file.
    """
    sums, lines, found = _listed(folder), read_facts(folder).lines, _found(folder)
    if missing := sorted(set(sums) - found):
        raise UserError(
            f"File {folder / missing[0]} is missing; copy it again, or all of {folder}."
        )
    if more := sorted(found - set(sums)):
        raise UserError(
            f"File {folder / more[0]} is not on the list {folder / LIST}; remove it, or copy all of"
            f" {folder} again."
        )
    for name, digest in sorted(sums.items()):
        whole = PART.fullmatch(name)
        target = into / (whole[1] if whole else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _reading(folder / name), (folder / name).open("rb") as file:
            copied = _copy(file, target, None)
        if copied != digest:
            raise UserError(f"File {folder / name} was changed on the way; copy it again.")
    (into / FACTS).unlink()
    if lines != len(sums):
        raise _list_fault(folder, f"has {len(sums):,} lines instead of {lines:,}")


def _listed(folder: Path) -> dict[str, str]:
    """The SHA-256 of the files on a folder's list, by name."""
    try:
        text = read_bounded(_ordinary(folder / LIST), LONGEST_LIST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _list_fault(folder, "cannot be read") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = LINE.fullmatch(line)
        if parts is None or leads_out(parts[2]) or parts[2] in (*sums, LIST):
            raise _list_fault(folder, f"has a line {number} that no job has written")
        sums[parts[2]] = parts[1]
    if FACTS not in sums:
        raise _list_fault(folder, "is not whole")
    return sums


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises UserError where a file cannot be read; what a disk does not take passes."""
    try:
        yield
    except OSError as error:
        if disk_sentence(error):
            raise
        raise UserError(f"File {path} cannot be read ({error.strerror}); copy it again.") from error


def _list_fault(folder: Path, fault: str) -> UserError:
    return UserError(f"List {folder / LIST} {fault}; copy all of {folder} again.")


def _found(folder: Path) -> set[str]:
    """The names of all files of a folder but its list."""
    found: set[str] = set()
    for here, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(here, name)
            if name in files or path.is_symlink():
                found.add(_ordinary(path).relative_to(folder).as_posix())
    return found - {LIST}


def _ordinary(path: Path) -> Path:
    """A path, if there is no other thing than an ordinary file; where there is nothing, too."""
    if path.is_symlink():
        raise UserError(
            f"{path} is a symbolic link; put the file itself there (`cp -rL` copies files for links)."
        )
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path} is no ordinary file; copy it again.")
    return path


def _copy(file: BinaryIO, target: Path, most: int | None) -> str:
    """Append the next `most` bytes of a file, or all, to another; returns their SHA-256."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    left = most
    with target.open("ab") as out:
        while block := file.read(BLOCK if left is None else min(left, BLOCK)):
            out.write(block)
            digest.update(block)
            left = None if left is None else left - len(block)
    return digest.hexdigest()


def size_of(folder: Path) -> str:
    """How many files a folder has, and how large they are together."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    total = sum(sizes) / 1e6
    return f"{len(sizes):,} files, " + (
        f"{total:,.1f} MB" if total < 1e3 else f"{total / 1e3:,.1f} GB"
    )


def replace_folder(beside: Path, folder: Path) -> None:
    """Let a folder that was written beside take the place of another."""
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(beside, folder)
