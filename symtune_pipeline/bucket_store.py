"""The store on s3: the same artifacts under a prefix, with a local folder as their cache.

A version never changes, so a copy in the cache is right as long as it matches the manifest, which
is always read from the bucket. Nothing finished is lost when the cache is deleted while nothing runs.
"""

from __future__ import annotations

from pathlib import Path, PurePath, PurePosixPath

from symtune_pipeline.bucket import Bucket
from symtune_pipeline.storage import MANIFEST, Manifest, Store, artifact, remove_others


class BucketStore(Store):
    """Artifacts by key and partition in a bucket."""

    def __init__(self, cache: Path, bucket: Bucket) -> None:
        super().__init__(cache)
        self.address = bucket.url()
        self._bucket = bucket

    def _manifests(self, key: str | None) -> list[PurePath]:
        paths = [PurePosixPath(name) for name in self._bucket.keys(key or "")]
        return [path for path in paths if path.name == MANIFEST and len(path.parts) in (2, 3)]

    def _manifest_text(self, name: str) -> str | None:
        return self._bucket.read_text(f"{name}/{MANIFEST}")

    def _fetch(self, path: Path) -> bool:
        return self._bucket.download_file(path.relative_to(self.root).as_posix(), path)

    def _publish(self, key: str, partition: str | None, manifest: Manifest) -> None:
        before = self.find(key, partition)
        name = artifact(key, partition)
        folder = self.location(key, partition, manifest)
        self._bucket.upload_folder(folder, f"{name}/{manifest.version}")
        self._bucket.write_text(f"{name}/{MANIFEST}", manifest.as_json())
        # Only the version that was replaced: another host may be uploading one of its own.
        if before and before.version != manifest.version:
            self._bucket.remove_folder(f"{name}/{before.version}")
        remove_others(folder.parent, manifest.version)
