"""A prefix of an s3 bucket: files up and down, and the store that keeps its artifacts there.

Credentials, region and endpoint are boto3's: the usual AWS variables and files, or those of the
client that is handed in. They appear in no message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import leads_out
from symtune_pipeline.store.folder import (
    MANIFEST,
    Damaged,
    Manifest,
    Store,
    artifact_path,
    remove_others,
)

ADDRESS = re.compile(r"s3://([A-Za-z0-9._-]{3,255})(?:/(.*))?")
MISSING = ("NoSuchKey", "404")  # the second answers a HEAD, which has no body for a name


def default_client() -> Any:
    """An s3 client with boto3's own settings."""
    from boto3.session import Session

    return Session().client("s3")  # of its own: the shared session is not safe in threads


class BucketError(UserError):
    """A bucket cannot be used; `reason` is what S3 or boto3 calls it."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Bucket:
    """Files under `url`, an s3://<bucket>/<prefix>; `connect` makes the client when it is needed.

    Every method raises BucketError where the bucket cannot be used. Keys are relative to the prefix.
    """

    def __init__(self, url: str, connect: Callable[[], Any] = default_client) -> None:
        parts = ADDRESS.fullmatch(url)
        if not parts:  # not shown, since it may hold a key
            raise BucketError(
                "An address that is no folder is written s3://<bucket>/<prefix>, without"
                " credentials; correct SYMTUNE_HOME, or `staging` in the launcher's file.",
                "not s3://<bucket>/<prefix>",
            )
        self._name = parts[1]
        self._prefix = (parts[2] or "").strip("/")
        self._connect = connect

    def url(self, key: str = "") -> str:
        """The s3:// address of a key, or of the whole."""
        return "/".join(filter(None, [f"s3://{self._name}", self._prefix, key]))

    def exists(self) -> bool:
        """Whether there is the bucket, and a file under the prefix."""
        with self._reached("", ("NoSuchBucket",)):
            page = self._client.list_objects_v2(Bucket=self._name, Prefix=self._prefix, MaxKeys=1)
            return bool(page["KeyCount"])
        return False

    def keys(self, folder: str = "") -> list[str]:
        """All keys below `folder`, in order of name."""
        below = f"{self._key(folder)}/".lstrip("/")
        with self._reached(folder):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._name, Prefix=below
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(key[len(self._prefix) :].lstrip("/") for key in keys)

    def version(self, key: str) -> list[int] | None:
        """Size in bytes and modification time in ns of a file, or None where there is none."""
        with self._reached(key, MISSING):
            head = self._client.head_object(Bucket=self._name, Key=self._key(key))
            return [head["ContentLength"], int(head["LastModified"].timestamp()) * 10**9]
        return None

    def read(self, key: str) -> bytes | None:
        """A file that fits into memory, or None where there is none."""
        with self._reached(key, MISSING):
            response = self._client.get_object(Bucket=self._name, Key=self._key(key))
            return bytes(response["Body"].read())
        return None

    def write(self, key: str, content: bytes) -> None:
        """Write a file that fits into memory; a reader sees the old one or the new one."""
        with self._reached(key):
            self._client.put_object(Bucket=self._name, Key=self._key(key), Body=content)

    def read_text(self, key: str) -> str | None:
        """A small file as text, or None where there is none."""
        content = self.read(key)
        return None if content is None else content.decode(errors="replace")

    def write_text(self, key: str, text: str) -> None:
        """Write a small file, as `write` does."""
        self.write(key, text.encode())

    def download_file(self, key: str, path: Path) -> bool:
        """Fetch a file, which appears at `path` when it is whole; False where there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._reached(key, MISSING):
            self._client.download_file(self._name, self._key(key), str(path))
            return True
        return False

    def upload_folder(self, local: Path, folder: str) -> None:
        """Copy all files of a local folder, each of which appears when it is whole."""
        for path in sorted(path for path in local.rglob("*") if path.is_file()):
            key = f"{folder}/{path.relative_to(local).as_posix()}"
            with self._reached(key):
                self._client.upload_file(str(path), self._name, self._key(key))

    def download_folder(self, folder: str, local: Path) -> None:
        """Copy all files below a folder into a local one."""
        for key in self.keys(folder):
            name = key.removeprefix(f"{folder}/")
            if leads_out(name):
                raise BucketError(
                    f"{self.url(folder)} holds the name {name!r}, which no job has written; remove it.",
                    "a name that leads elsewhere",
                )
            self.download_file(key, local / name)

    def remove_folder(self, folder: str) -> None:
        """Remove all files below a folder."""
        for key in self.keys(folder):
            with self._reached(key):
                self._client.delete_object(Bucket=self._name, Key=self._key(key))

    def _key(self, key: str) -> str:
        return "/".join(filter(None, [self._prefix, key]))

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    @contextmanager
    def _reached(self, key: str, ignored: Collection[str] = ()) -> Iterator[None]:
        """Raises BucketError for what goes wrong within, but for the ignored reasons."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        # A ValueError is an endpoint that is no address.
        except (Boto3Error, BotoCoreError, ClientError, ValueError) as error:
            # An upload wraps what went wrong.
            cause = error.__context__ if isinstance(error, Boto3Error) else error
            # Their texts may hold hosts and the names of keys.
            reason = type(cause or error).__name__
            if isinstance(cause, ClientError):
                reason = cause.response["Error"]["Code"]
            if reason in ignored:
                return
            raise BucketError(
                f"{self.url(key)} cannot be used ({reason}); correct the bucket's name in"
                " SYMTUNE_HOME, or the AWS settings: credentials, region, endpoint.",
                reason,
            ) from error


class BucketStore(Store):
    """Artifacts by key and partition in a bucket, with a local folder as their cache.

    A version never changes, so a copy in the cache is right as long as it matches the manifest, which
    is always read from the bucket. Nothing finished is lost when the cache is deleted while nothing
    runs.
    """

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
        before = None
        with suppress(Damaged):  # then it is not known what it was of
            before = self.find(key, partition)
        name = artifact_path(key, partition)
        folder = self.location(key, partition, manifest)
        self._bucket.upload_folder(folder, f"{name}/{manifest.version}")
        self._bucket.write_text(f"{name}/{MANIFEST}", manifest.as_json(name))
        # Only the version that was replaced: another host may be uploading one of its own.
        if before and before.version != manifest.version:
            self._bucket.remove_folder(f"{name}/{before.version}")
        remove_others(folder.parent, manifest.version)
