"""The store as a Dagster resource: an asset's inputs, its output, and what makes it up to date."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

from symtune_pipeline.errors.interrupts import interrupted
from symtune_pipeline.files import TABLE, content_hash, scan_table
from symtune_pipeline.progress import duration
from symtune_pipeline.store.claim import Owner, claim
from symtune_pipeline.store.folder import WORK, Manifest, Store

MADE_IN = "made in seconds"  # metadata of what was not up to date
Metadata = dict[str, dg.MetadataValue]
Build = Callable[[Path], Metadata | None]


class StoreResource(dg.ConfigurableResource[Store]):
    """Tables, models and reports of one experiment, as folders under `root`."""

    root: str
    owner: dict[str, str] = {}  # noqa: RUF012 - fields of `Owner`; empty: whoever writes may

    @cached_property
    def artifacts(self) -> Store:
        """What the graph has made."""
        return Store(Path(self.root))

    def work_folder(self, key: str, partition: str) -> Path:
        """A folder for what a step keeps until it is finished, such as checkpoints."""
        return Path(self.root, WORK, key, partition)

    def checkpoint_url(self, key: str, partition: str) -> str | None:
        """The s3:// prefix that keeps a job's unfinished work too; none where all is kept here."""
        return None

    def clear_work(self, key: str, partition: str) -> None:
        """Remove what a step has kept until it was finished."""
        shutil.rmtree(self.work_folder(key, partition), ignore_errors=True)

    def make(
        self,
        context: dg.AssetExecutionContext,
        build: Build,
        *,
        key: dg.AssetKey | None = None,
        columns: Mapping[str, str] | None = None,
        sources: object = None,
        beside: Sequence[str] = (),
    ) -> dg.MaterializeResult:
        """Run `build` on an empty folder and keep what it writes, unless nothing has changed.

        An asset is up to date when it was made from the same code version, the same versions of its
        inputs and the same `sources` (what it reads from outside the graph, as JSON), and where the
        artifacts that `build` makes `beside` it are whole; it is then recognised and left as it is. Of
        two runs at once the second waits, and recognises what the first has made. `columns` describes
        the table's columns in words.
        """
        if interrupted():
            # A library has swallowed the exception of a signal, as some do while they are imported.
            raise dg.DagsterExecutionInterruptedError
        key = key or context.asset_key
        partition = context.partition_key if context.assets_def.partitions_def else None
        name = key.to_user_string()
        if self.owner:
            claim(self.artifacts, Owner(**self.owner))
        inputs = self.inputs(context, key)
        code = context.assets_def.code_versions_by_key[key]
        made_from = content_hash([code, inputs, sources])
        known = self._known(name, partition, made_from, beside)
        if known is not None:
            context.log.info(f"{name}: up to date")
            return self._result(known, name, partition, key, {}, columns)
        with self._alone(name, partition, context.log.info):
            known = self._known(name, partition, made_from, beside)
            if known is not None:
                context.log.info(f"{name}: made by another run meanwhile")
                return self._result(known, name, partition, key, {}, columns)
            started = time.monotonic()
            with self.artifacts.writing(name, partition, made_from, inputs) as folder:
                metadata = build(folder) or {}
        manifest = self.artifacts.manifest(name, partition)
        rows = f"{manifest.rows[TABLE]:,} rows, " if TABLE in manifest.rows else ""
        took = time.monotonic() - started
        context.log.info(f"{name}: {rows}made in {duration(took)}")
        metadata |= {MADE_IN: dg.MetadataValue.float(took)}
        return self._result(manifest, name, partition, key, metadata, columns)

    def _known(
        self, name: str, partition: str | None, made_from: str, beside: Sequence[str]
    ) -> Manifest | None:
        """The manifest of what need not be made."""
        whole = all(self.artifacts.is_whole(key, partition) for key in beside)
        return self.artifacts.up_to_date(name, partition, made_from) if whole else None

    @contextmanager
    def _alone(
        self, name: str, partition: str | None, say: Callable[[str], None]
    ) -> Iterator[None]:
        """While this holds, no other run on this machine makes the artifact; a dead one lets go."""
        home = self.artifacts.root / name / (partition or "")
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(f"{name}: another run is making it; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def inputs(self, context: dg.AssetExecutionContext, key: dg.AssetKey) -> dict[str, str]:
        """Versions of what an asset depends on, read from their manifests."""
        versions = {}
        for dep in sorted(context.assets_def.asset_deps[key]):
            name = dep.to_user_string()
            for partition in self._partitions(context, name):
                versions["/".join(filter(None, [name, partition]))] = self.artifacts.manifest(
                    name, partition
                ).version
        return versions

    def _partitions(self, context: dg.AssetExecutionContext, name: str) -> Sequence[str | None]:
        """The partitions of an input that an asset reads: its own one, or all that have been made."""
        made = self.artifacts.partitions(name)
        if not made:
            return [None]
        return [context.partition_key] if context.assets_def.partitions_def else made

    def _result(
        self,
        manifest: Manifest,
        name: str,
        partition: str | None,
        key: dg.AssetKey,
        metadata: Metadata,
        columns: Mapping[str, str] | None,
    ) -> dg.MaterializeResult:
        folder = self.artifacts.location(name, partition, manifest)
        address = f"{self.artifacts.address_of(name, partition)}/{manifest.version}"
        shown: Metadata = {
            "folder": dg.MetadataValue.path(address),
            "version": dg.MetadataValue.text(manifest.version),  # a hash of its files
        }
        for file, rows in manifest.rows.items():
            # Dagster has a place for the one table of an asset; further tables go by their names.
            prefix = "dagster/" if file == TABLE else f"{Path(file).stem} "
            shown[f"{prefix}row_count"] = dg.MetadataValue.int(rows)
            shown[f"{prefix}column_schema"] = dg.MetadataValue.table_schema(
                table_schema(folder / file, columns or {})
            )
        return dg.MaterializeResult(
            asset_key=key, metadata=shown | metadata, data_version=dg.DataVersion(manifest.version)
        )


def table_schema(path: Path, descriptions: Mapping[str, str]) -> dg.TableSchema:
    """The columns of a Parquet file with their types, and descriptions where there are some."""
    return dg.TableSchema(
        [
            dg.TableColumn(name, str(dtype), descriptions.get(name))
            for name, dtype in scan_table(path).collect_schema().items()
        ]
    )
