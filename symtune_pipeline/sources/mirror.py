"""A mirror: public sets as Parquet files in a folder or an s3:// prefix, with the hub's layout.

    <repository>/<configuration>/<split>.parquet

On s3 the usual AWS variables hold, AWS_ENDPOINT_URL among them. This module knows nothing about
what the files hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import polars as pl
from pyarrow import fs

from symtune_pipeline.catalog.datasets import Dataset, HubLocation
from symtune_pipeline.errors import MissingData, UserError, all_missing
from symtune_pipeline.sources.hub import Hub


class Mirror:
    """Reads and writes the mirror at `place`; raises UserError where that is no folder or prefix."""

    def __init__(self, place: str) -> None:
        self._place = place
        with self._reached():
            if "://" in place:
                self._filesystem, self._root = fs.FileSystem.from_uri(place)
            else:
                self._filesystem, self._root = fs.LocalFileSystem(), str(Path(place).resolve())

    def where(self, hub: HubLocation, split: str) -> str:
        """The file that holds a split, for messages."""
        return self._shown(self._file(hub, split))

    def files(self, hub: HubLocation) -> list[fs.FileInfo]:
        """Size and modification time of the file of each split, whether there or not."""
        return [self._file(hub, split) for split in hub.splits]

    def read(self, hub: HubLocation, split: str) -> pl.DataFrame:
        """A split as it was published.

        Raises MissingData where the mirror has no such file, and UserError where the file is damaged
        or the mirror itself cannot be reached.
        """
        info = self._file(hub, split)
        if not info.is_file:
            with self._reached():
                if self._filesystem.get_file_info(self._root).type == fs.FileType.NotFound:
                    raise UserError(f"Mirror {self._place} does not exist; correct SYMTUNE_MIRROR.")
            raise MissingData(f"The mirror lacks {self._shown(info)}.")
        with self._reached(), self._filesystem.open_input_file(info.path) as file:
            content = file.read()
        try:
            return pl.read_parquet(content)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self._shown(info)} is no readable Parquet file ({reason}); copy it again."
            ) from error

    def write(self, hub: HubLocation, split: str, frame: pl.DataFrame) -> None:
        """Keep a split: written beside and renamed, so that no reader sees half a file."""
        path = self._paths(hub, split)[0]
        content = BytesIO()
        frame.write_parquet(content)
        with self._reached():
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with self._filesystem.open_output_stream(f"{path}.partial") as file:
                file.write(content.getvalue())
            self._filesystem.move(f"{path}.partial", path)

    def _paths(self, hub: HubLocation, split: str) -> list[str]:
        # The hub's oldest sets once had no owner in their names, and a mirror may still call them so.
        names = [hub.repository, hub.repository.rpartition("/")[2]]
        return [f"{self._root}/{name}/{hub.config}/{hub.splits[split]}.parquet" for name in names]

    def _file(self, hub: HubLocation, split: str) -> fs.FileInfo:
        with self._reached():
            infos = self._filesystem.get_file_info(self._paths(hub, split))
        return next((info for info in infos if info.is_file), infos[0])

    def _shown(self, info: fs.FileInfo) -> str:
        return f"s3://{info.path}" if "://" in self._place else str(info.path)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # pyarrow's errors are among these
            reason = str(error).splitlines()[0]
            raise UserError(
                f"Mirror {self._place} cannot be used ({reason}); correct its name, which is a folder or"
                " s3://<bucket>/<prefix>, or the AWS settings."
            ) from error


def fill_mirror(
    datasets: Sequence[Dataset], source: Mirror | Hub, mirror: Mirror, say: Callable[[str], None]
) -> None:
    """Copy every split that the catalogue uses of public sets into `mirror`, unless it is there.

    Goes on where a set cannot be had, and raises MissingData with all of these at the end.
    """
    missing: dict[str, MissingData] = {}
    for dataset in datasets:
        assert dataset.hub is not None
        for split, info in zip(dataset.hub.splits, mirror.files(dataset.hub), strict=True):
            name = mirror.where(dataset.hub, split)
            if info.is_file:
                say(f"{name}: there")
                continue
            try:
                frame = source.read(dataset.hub, split)
            except MissingData as error:
                missing[dataset.key] = error
                say(f"{name}: cannot be had")
                continue
            mirror.write(dataset.hub, split, frame)
            say(f"{name}: {len(frame):,} rows")
    if missing:
        raise MissingData(
            f"{all_missing(missing, len(datasets))}; run it again to try these again."
        )
