"""Files: hashes, atomic and sealed text, JSON, YAML, and tables that are read a part at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import yaml
from pyarrow import parquet

from symtune_pipeline.errors import UserError

TABLE = "data.parquet"  # the file of an artifact that holds one table
SEAL = "sha256"  # where a sealed object has its checksum
LONGEST_NAME = 200  # bytes: file systems end at 255, and what is written beside is longer

# What a file of settings may hold; beyond lies no experiment, but a mistake or an attack.
MOST_SETTINGS = 1_000_000  # bytes
MOST_VALUES = 100_000
LONGEST_NUMBER = 100  # digits
DEEPEST = 50  # lists and mappings within each other

# How plain words and numbers of YAML are read, by their first letters; any other is a text.
_TAG = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_KEPT = (f"{_TAG}null", f"{_TAG}merge")
_READ_AS = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder by its path there, in order of name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def content_hash(value: object) -> str:
    """SHA-256 of a value's JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def name_fault(name: str) -> str | None:
    """Why a name from outside may not be that of a folder of ours; None where it may."""
    if not name:
        return "it is empty"
    if name.startswith("."):
        return "it begins with a dot"
    if any(character in "/\\" or ord(character) < ord(" ") for character in name):
        return "it holds a slash or a control character"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "it holds what is not UTF-8"
    if len(name.encode()) > LONGEST_NAME:
        return f"it is longer than {LONGEST_NAME} bytes"
    return None


def leads_out(path: str) -> bool:
    """Whether a path from outside, with slashes, may lie elsewhere than below the folder it is joined to."""
    parts = path.split("/")
    return any(part in ("", ".", "..") for part in parts) or any(c in path for c in "\\\0")


def write_frames(path: Path, frames: Iterable[pl.DataFrame]) -> None:
    """Write frames of one schema as the row groups of one Parquet file, holding one at a time."""
    frames = iter(frames)
    oldest = pl.CompatLevel.oldest()  # kinds of columns that every reader of Parquet knows
    first = next(frames).to_arrow(compat_level=oldest)
    with parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for frame in frames:
            writer.write_table(frame.to_arrow(compat_level=oldest))


def read_frames(path: Path) -> Iterator[pl.DataFrame]:
    """The row groups of a Parquet file, one at a time."""
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield pl.DataFrame(pl.from_arrow(file.read_row_group(group)))


def scan_table(path: Path) -> pl.LazyFrame:
    """A Parquet file as a lazy frame; `[` and `*` in its path are no pattern, and `=` no column."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def read_table(path: Path) -> pl.DataFrame:
    """The table of a Parquet file, whatever its path holds."""
    return pl.read_parquet(path, glob=False, hive_partitioning=False)


def write_text(path: Path, text: str) -> None:
    """Write a file beside, then rename, so that a reader sees the old one or the new one."""
    # Containers that share a folder often have the same process number.
    beside = path.with_name(f".{path.name}-{os.getpid()}-{uuid4().hex[:8]}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def read_bounded(path: Path, most: int) -> bytes:
    """The content of an ordinary file of at most `most` bytes; raises OSError for any other.

    A pipe would let its reader wait, and a device has no end.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if stat.S_ISDIR(found.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "no ordinary file", str(path))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"more than {most:,} bytes", str(path))
        return file.read()


def read_settings(path: Path) -> str:
    """The text of a file with settings; raises OSError and UnicodeError."""
    return read_bounded(path, MOST_SETTINGS).decode()


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds; raises ValueError for whatever cannot be read, also for its depth."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("brackets within brackets, too deep to read") from error


def sealed(value: Mapping[str, Any]) -> str:
    """An object as JSON with its own checksum, so that what guards other files is guarded too."""
    return json.dumps({**value, SEAL: content_hash(value)}, indent=1)


def unsealed(text: str | bytes) -> dict[str, Any]:
    """The object of a text that `sealed` made; raises ValueError for any other."""
    value = parse_json(text)
    if not isinstance(value, dict) or value.pop(SEAL, None) != content_hash(value):
        raise ValueError("it does not match its own checksum")
    return value


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text holds; `where` names it in sentences.

    PyYAML reads YAML 1.1, keeps the last of two equal keys, and takes `no` for false, `010` for 8 and
    `1:30` for 90. Here these are the texts that they look like, as in YAML 1.2, and no key comes twice.
    Raises UserError for what is no YAML, for a key that comes twice in one mapping, and for more than
    DEEPEST levels, or MOST_VALUES values once what aliases repeat is counted.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        if _values(root, {}) > MOST_VALUES:
            raise UserError(f"{where} repeats too much by its aliases; write it without them.")
        return loader.construct_document(root)
    except _KeyTwice as error:
        key, line = error.args
        raise UserError(f"{where}, line {line}: '{key}' comes a second time; keep one.") from error
    except (yaml.YAMLError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{where} is not valid YAML: {reason}.") from error


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node holds, with all that its aliases repeat."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES  # while it is counted: an alias of what it stands in
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        each = [
            part for child in children for part in (child if isinstance(child, tuple) else [child])
        ]
        known[id(node)] = 1 + sum(_values(part, known) for part in each)
    return known[id(node)]


class _KeyTwice(Exception):
    """A key, and the line, from 1, where it comes again."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [each for each in resolvers if each[0] in _KEPT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    # Plain values only: no dates, sets, bytes and objects, whatever a tag says.
    yaml_constructors = {  # noqa: RUF012 - as the base class has it
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in _PLAIN
    }
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node, if it does not lie too deep."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels lie within each other")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """A plain value, if it is no number of thousands of digits, and all of it is characters."""
        node = super().compose_scalar_node(anchor)
        assert isinstance(node, yaml.ScalarNode)
        line = node.start_mark.line + 1
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"the number in line {line} has {len(node.value):,} digits")
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value):
            raise yaml.YAMLError(f"line {line} escapes what is no character")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping with its own keys; `<<` adds those of another mapping later."""
        node = super().compose_mapping_node(anchor)
        assert isinstance(node, yaml.MappingNode)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                name = self.construct_object(key)
                if name in seen:
                    raise _KeyTwice(key.value, key.start_mark.line + 1)
                seen.add(name)
        return node


for kind, (pattern, first) in _READ_AS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{kind}", re.compile(f"({pattern})$"), list(first))
