"""A mirror: public sets as Parquet files in a folder or an s3:// prefix, with the hub's layout.

    <repository>/<configuration>/<split>.parquet

On s3 the usual AWS variables hold, AWS_ENDPOINT_URL among them. This module knows nothing about
what the files hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol

import polars as pl

from symtune_pipeline.catalog.datasets import HubLocation
from symtune_pipeline.errors import MissingData, UserError, all_missing
from symtune_pipeline.sources.source import FileVersion, Source, file_version
from symtune_pipeline.store.bucket import Bucket, BucketError


class Mirror:
    """Reads and writes the mirror at `address`; raises UserError where it is no folder or prefix."""

    def __init__(self, address: str) -> None:
        # Whoever writes credentials into an address does not want to read them in a log.
        self._address = re.sub(r"//[^/]*@", "//…@", address)
        with self._reached():
            on_s3 = "://" in address
            self._files: _Files = Bucket(address) if on_s3 else _Folder(Path(address).resolve())

    def where(self, hub: HubLocation, split: str) -> str:
        """The file that holds a split, for messages."""
        return self._files.url(self._file(hub, split)[0])

    def files(self, hub: HubLocation) -> list[FileVersion | None]:
        """The version of the file of each split, None where it is not there."""
        return [self._file(hub, split)[1] for split in hub.splits]

    def read(self, hub: HubLocation, split: str) -> pl.DataFrame:
        """A split as it was published.

        Raises MissingData where the mirror has no such file, and UserError where the file is damaged
        or the mirror itself cannot be reached.
        """
        name, version = self._file(hub, split)
        with self._reached():
            exists = version is not None or self._files.exists()
            content = self._files.read(name) if version else None
        if not exists:
            raise UserError(f"Mirror {self._address} does not exist; correct SYMTUNE_MIRROR.")
        if content is None:
            raise MissingData(f"The mirror lacks {self._files.url(name)}.")
        try:
            return pl.read_parquet(content)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self._files.url(name)} is no readable Parquet file ({reason}); copy it again."
            ) from error

    def write(self, hub: HubLocation, split: str, frame: pl.DataFrame) -> None:
        """Keep a split, so that no reader sees half a file."""
        content = BytesIO()
        frame.write_parquet(content)
        with self._reached():
            self._files.write(self._names(hub, split)[0], content.getvalue())

    def _names(self, hub: HubLocation, split: str) -> list[str]:
        # The hub's oldest sets once had no owner in their names, and a mirror may still call them so.
        repositories = [hub.repository, hub.repository.rpartition("/")[2]]
        return [f"{name}/{hub.config}/{hub.splits[split]}.parquet" for name in repositories]

    def _file(self, hub: HubLocation, split: str) -> tuple[str, FileVersion | None]:
        """Name and version of the file of a split, whether it is there or not."""
        names = self._names(hub, split)
        with self._reached():
            for name in names:
                version = self._files.version(name)
                if version:
                    return name, version
        return names[0], None

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, BucketError) as error:
            if isinstance(error, BucketError) and error.passing:
                raise
            reason = getattr(error, "reason", None) or str(error).splitlines()[0]
            raise UserError(
                f"Mirror {self._address} cannot be used ({reason}); correct its name, which is a folder"
                " or s3://<bucket>/<prefix>, or the AWS settings."
            ) from error


class _Files(Protocol):
    """What a mirror asks of the files below its root, by name; `Bucket` has the same."""

    def url(self, key: str) -> str: ...
    def exists(self) -> bool: ...
    def version(self, key: str) -> FileVersion | None: ...
    def read(self, key: str) -> bytes | None: ...
    def write(self, key: str, content: bytes) -> None: ...


class _Folder:
    """Files in a local folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def url(self, key: str) -> str:
        return str(self._root / key)

    def exists(self) -> bool:
        return self._root.exists()

    def version(self, key: str) -> FileVersion | None:
        return file_version(self._root / key)

    def read(self, key: str) -> bytes | None:
        path = self._root / key
        return path.read_bytes() if path.is_file() else None

    def write(self, key: str, content: bytes) -> None:
        """Write beside and rename."""
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(content)
        partial.replace(path)


def fill_mirror(
    public: Mapping[str, HubLocation], source: Source, mirror: Mirror, say: Callable[[str], None]
) -> None:
    """Copy every split that the catalogue uses of public sets, by key, into `mirror`, unless it is there.

    Goes on where a set cannot be had, and raises MissingData with all of these at the end.
    """
    missing: dict[str, MissingData] = {}
    for key, hub in public.items():
        for split, version in zip(hub.splits, mirror.files(hub), strict=True):
            name = mirror.where(hub, split)
            if version:
                say(f"{name}: there")
                continue
            try:
                frame = source.read(hub, split)
            except MissingData as error:
                missing[key] = error
                say(f"{name}: cannot be had")
                continue
            mirror.write(hub, split, frame)
            say(f"{name}: {len(frame):,} rows")
    if missing:
        raise MissingData(f"{all_missing(missing, len(public))}; run it again to try these again.")
