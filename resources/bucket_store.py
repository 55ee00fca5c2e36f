"""The store on s3 as a Dagster resource."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from dagster_aws.s3 import S3Resource

from resources.store import StoreResource
from symtune_pipeline.store.bucket import Bucket, BucketStore
from symtune_pipeline.store.folder import WORK, Store


class BucketStoreResource(StoreResource):
    """The artifacts lie under the s3:// prefix `url`, and `root` is their cache."""

    url: str
    s3: S3Resource

    @cached_property
    def artifacts(self) -> Store:
        """What the graph has made."""
        return BucketStore(Path(self.root), Bucket(self.url, self.s3.get_client))

    def checkpoint_url(self, key: str, partition: str) -> str | None:
        """A prefix of the bucket, so that another machine can go on with the job."""
        return f"{self.url}/{_work(key, partition)}"

    def clear_work(self, key: str, partition: str) -> None:
        """Remove it here and in the bucket."""
        super().clear_work(key, partition)
        Bucket(self.url, self.s3.get_client).remove_folder(_work(key, partition))


def _work(key: str, partition: str) -> str:
    return f"{WORK}/{key}/{partition}"
