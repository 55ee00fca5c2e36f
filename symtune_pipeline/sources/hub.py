"""Public sets from the hub, at their pinned revision.

The hub's own variables hold: HF_ENDPOINT, HF_HOME for its cache, and HF_HUB_OFFLINE=1, with which
only cached sets load and nothing waits for a network.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import polars as pl

from symtune_pipeline.catalog.datasets import HubLocation
from symtune_pipeline.errors import MissingData, UserError
from symtune_pipeline.files import read_table
from symtune_pipeline.sources.hub_client import (
    TIMEOUT,
    asking_again,
    disk_trouble,
    may_pass,
    no_download,
    reason,
    refusal,
    refused,
)
from symtune_pipeline.sources.source import FileVersion

ENTRY = "its entry in the catalogue or in data.own"


class Hub:
    """Reads public sets; `wait` is the pause in seconds after a first failure, doubled each time.

    A hub that has not answered is not asked again, so that 33 sets wait once.
    """

    def __init__(self, wait: float = 1.0) -> None:
        self._wait = wait
        self._silent: str | None = None  # why the hub is taken to be down

    def where(self, hub: HubLocation, split: str) -> str:
        """Repository, configuration, split and revision, for messages."""
        return (
            f"Hub dataset {hub.repository} ({hub.config}, {hub.splits[split]},"
            f" revision {hub.revision})"
        )

    def files(self, hub: HubLocation) -> list[FileVersion | None]:
        """Empty: what a pinned revision holds never changes."""
        return []

    def read(self, hub: HubLocation, split: str) -> pl.DataFrame:
        """A split as it was published.

        Raises MissingData where the hub cannot be reached, or no longer has the repository or the
        revision, and offline where its cache lacks the set.
        """
        from huggingface_hub import constants

        where = self.where(hub, split)
        if constants.is_offline_mode():
            way_out = "HF_HUB_OFFLINE is set and the hub's cache lacks it"
        else:
            way_out = "check the network, or take it from a mirror with SYMTUNE_MIRROR"
            self._ask(hub, where)
        try:
            # The hub's client asks again by itself where a download breaks off, and goes on from the
            # byte where it was (huggingface_hub.file_download.http_get).
            return (_parquet_branch if hub.parquet_branch else _published)(hub, hub.splits[split])
        # The libraries raise their own, the hub client's and the HTTP client's errors.
        except Exception as error:
            if disk_trouble(error):
                raise UserError(no_download(where, error)) from error
            answer = refused(error)
            if answer is not None and answer.response.status_code in (401, 403):
                raise MissingData(refusal(where, answer, ENTRY)) from error
            raise MissingData(f"{where} cannot be loaded ({reason(error)}); {way_out}.") from error

    def _ask(self, hub: HubLocation, where: str) -> None:
        """Ask whether the revision is there, which costs little and fails with a plain reason."""
        from httpx2 import TransportError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        if self._silent:
            raise MissingData(self._silent)
        asking = asking_again(self._wait)
        try:
            asking(HfApi().dataset_info, hub.repository, revision=hub.revision, timeout=TIMEOUT)
        except (HfHubHTTPError, TransportError) as error:
            if may_pass(error) or not isinstance(error, HfHubHTTPError):
                self._silent = (
                    f"The hub does not answer ({reason(error)}); check the network, take the sets from"
                    " a mirror with SYMTUNE_MIRROR, or set HF_HUB_OFFLINE=1 to use those in its cache."
                )
                raise MissingData(self._silent) from error
            raise MissingData(refusal(where, error, ENTRY)) from error


def _published(hub: HubLocation, split: str) -> pl.DataFrame:
    from datasets import load_dataset

    loaded = load_dataset(hub.repository, name=hub.config, split=split, revision=hub.revision)
    # Where the hub cannot be asked, the library takes any revision that its cache holds.
    if hub.revision and hub.revision not in Path(loaded.cache_files[0]["filename"]).parts:
        raise FileNotFoundError("the cache holds another revision")
    frame = pl.from_arrow(loaded.data.table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _parquet_branch(hub: HubLocation, split: str) -> pl.DataFrame:
    """The files themselves: offline, `datasets` does not find such a folder in its cache again."""
    from huggingface_hub import snapshot_download

    # <config>/train/0000.parquet, and before 2024 <config>/<name>-train.parquet
    pattern = f"{hub.config}/*{split}*.parquet"
    folder = Path(
        snapshot_download(
            hub.repository, repo_type="dataset", revision=hub.revision, allow_patterns=pattern
        )
    )
    present = sorted(folder.rglob("*.parquet"))
    files = [path for path in present if fnmatch(path.relative_to(folder).as_posix(), pattern)]
    if not files:
        raise FileNotFoundError(f"no file {pattern}")
    return pl.concat(map(read_table, files))
