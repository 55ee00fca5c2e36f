"""A prefix of an s3 bucket: files up and down, and the store that keeps its artifacts there.

Credentials, region and endpoint are boto3's: the usual AWS variables and files, or those of the
client that is handed in. They appear in no message.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import leads_out, sha256
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
MISSING_BUCKET = ("NoSuchBucket",)
DIGEST = "sha256"  # where a file's metadata have its checksum
PAUSES = (0.1, 0.5, 2.0, 5.0)  # seconds before something is tried again
# Reasons that S3 gives with a status of the client's, and that are none of its making.
PASSING = (
    "RequestTimeout",
    "SlowDown",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentChecksumMismatch",
)
UNREACHABLE = ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError")
# Where every try ends in one of these, it is the file there that is damaged.
DAMAGED = ("it came garbled", "FlexibleChecksumError")
T = TypeVar("T")


def default_client() -> Any:
    """An s3 client with boto3's own settings."""
    from boto3.session import Session

    return Session().client("s3")  # of its own: the shared session is not safe in threads


class BucketError(UserError):
    """A bucket cannot be used; `reason` is what S3 or boto3 calls it, and may be `passing`."""

    def __init__(self, sentence: str, reason: str, passing: bool = False) -> None:
        super().__init__(sentence)
        self.reason, self.passing = reason, passing


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
        page = self._ask("", "list_objects_v2", MISSING_BUCKET, Prefix=self._prefix, MaxKeys=1)
        return page is not None and bool(page["KeyCount"])

    def keys(self, folder: str = "") -> list[str]:
        """All keys below `folder`, in order of name."""
        below = f"{self._key(folder)}/".lstrip("/")

        def listed() -> list[str]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._name, Prefix=below
            )
            return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

        return sorted(
            key[len(self._prefix) :].lstrip("/") for key in self._patiently(folder, listed) or ()
        )

    def version(self, key: str) -> list[int] | None:
        """Size in bytes and modification time in ns of a file, or None where there is none."""
        head = self._head(key)
        if head is None:
            return None
        return [head["ContentLength"], int(head["LastModified"].timestamp()) * 10**9]

    def digest(self, key: str) -> str | None:
        """The SHA-256 with which `upload_file` has put a file there; None where it did not."""
        noted: dict[str, str] = (self._head(key) or {}).get("Metadata", {})
        return noted.get(DIGEST)

    def read(self, key: str) -> bytes | None:
        """A file that fits into memory, or None where there is none."""

        def content() -> bytes:
            answer = self._client.get_object(Bucket=self._name, Key=self._key(key))
            return bytes(answer["Body"].read())

        return self._patiently(key, content, MISSING)

    def write(self, key: str, content: bytes) -> None:
        """Write a file that fits into memory; a reader sees the old one or the new one."""
        self._ask(key, "put_object", Key=self._key(key), Body=content)

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

        def fetched() -> bool:
            self._client.download_file(self._name, self._key(key), str(path))
            if self.digest(key) not in (None, sha256(path)):
                path.unlink()
                raise _Garbled
            return True

        return self._patiently(key, fetched, MISSING) or False

    def upload_file(self, path: Path, key: str) -> None:
        """Copy a local file, which appears when it is whole, and note its SHA-256 beside it."""
        noted = {"Metadata": {DIGEST: sha256(path)}}
        self._patiently(
            key,
            lambda: self._client.upload_file(
                str(path), self._name, self._key(key), ExtraArgs=noted
            ),
        )

    def upload_folder(self, local: Path, folder: str) -> None:
        """Copy all files of a local folder, each of which appears when it is whole."""
        for path in sorted(path for path in local.rglob("*") if path.is_file()):
            self.upload_file(path, f"{folder}/{path.relative_to(local).as_posix()}")

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
            self._ask(key, "delete_object", Key=self._key(key))

    def _key(self, key: str) -> str:
        return "/".join(filter(None, [self._prefix, key]))

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    def _head(self, key: str) -> dict[str, Any] | None:
        return self._ask(key, "head_object", MISSING, Key=self._key(key))

    def _ask(
        self, key: str, operation: str, missing: Collection[str] = (), **parameters: Any
    ) -> dict[str, Any] | None:
        """The answer to one operation of the client; None for the reasons in `missing`."""
        return self._patiently(
            key,
            lambda: getattr(self._client, operation)(Bucket=self._name, **parameters),
            missing,
        )

    def _patiently(
        self, key: str, work: Callable[[], T], missing: Collection[str] = ()
    ) -> T | None:
        """What `work` returns, which is tried again after trouble that may pass.

        boto3 repeats most requests by itself, but no answer that broke off or came garbled.
        """
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        # A ValueError is an endpoint that is no address.
        known = (Boto3Error, BotoCoreError, ClientError, ResponseParserError, ValueError, _Garbled)
        for pause in (*PAUSES, None):
            try:
                return work()
            except known as error:
                cause = _cause(error)
                reason = _reason(cause)
                if reason in missing:
                    return None
                passing = _may_pass(cause)
                if pause is None or not passing:
                    trouble = f"{self.url(key)} {_sentence(reason, passing)}"
                    raise BucketError(trouble, reason, passing) from error
                time.sleep(pause)
        raise AssertionError("unreachable")


class _Garbled(Exception):
    """What was fetched is not what was put there."""


def _cause(error: BaseException) -> BaseException:
    """What went wrong, which transfers of files wrap."""
    from boto3.exceptions import Boto3Error

    if isinstance(error, Boto3Error) and error.__context__:
        error = error.__context__
    return getattr(error, "last_exception", None) or error


def _reason(cause: BaseException) -> str:
    """What S3 or boto3 calls it; its text may hold hosts and the names of keys."""
    from botocore.exceptions import ClientError

    if isinstance(cause, ClientError):
        return str(cause.response["Error"]["Code"])
    return "it came garbled" if isinstance(cause, _Garbled) else type(cause).__name__


def _may_pass(cause: BaseException) -> bool:
    """Whether trying again may help: an error of the server's, an answer that broke off or is garbled."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(cause, exceptions.ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or _reason(cause) in PASSING
    if _reason(cause) in UNREACHABLE:
        return False  # boto3 has tried for long
    broken = (
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        exceptions.FlexibleChecksumError,
        ResponseParserError,
        _Garbled,
    )
    return isinstance(cause, broken)


def _sentence(reason: str, passing: bool) -> str:
    """The end of the sentence: who is to blame, and the way out."""
    if passing:
        return (
            f"could not be read or written in {len(PAUSES) + 1} tries ({reason}): S3 or the network to it"
            " fails, and no setting; start again later, which goes on where it was."
        )
    if reason in UNREACHABLE:
        return (
            f"cannot be reached ({reason}); see to the network, or correct the AWS settings: region,"
            " endpoint."
        )
    return (
        f"cannot be used ({reason}); correct the bucket's name in SYMTUNE_HOME, or the AWS settings:"
        " credentials, region, endpoint."
    )


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

    def find(self, key: str, partition: str | None = None) -> Manifest | None:
        """As of every store; what came garbled is read again before it counts as damaged."""
        with suppress(Damaged):
            return super().find(key, partition)
        return super().find(key, partition)

    def up_to_date(self, key: str, partition: str | None, made_from: str) -> Manifest | None:
        """As of every store; a file that is missing or another in the bucket is put there again."""
        known = super().up_to_date(key, partition, made_from)
        if known:
            folder = f"{artifact_path(key, partition)}/{known.version}"
            for name, digest in known.files.items():
                if self._bucket.digest(f"{folder}/{name}") != digest:
                    self._bucket.upload_file(self.root / folder / name, f"{folder}/{name}")
        return known

    def read_text(self, name: str) -> str | None:
        """A small file beside the artifacts, or None where there is none."""
        return self._bucket.read_text(name)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file beside the artifacts."""
        self._bucket.write_text(name, text)

    def _manifests(self, key: str | None) -> list[PurePath]:
        paths = [PurePosixPath(name) for name in self._bucket.keys(key or "")]
        return [path for path in paths if path.name == MANIFEST and len(path.parts) in (2, 3)]

    def _manifest_text(self, name: str) -> str | None:
        with _damaged_or_raised():
            return self._bucket.read_text(f"{name}/{MANIFEST}")
        return ""

    def _fetch(self, path: Path) -> bool:
        with _damaged_or_raised():
            return self._bucket.download_file(path.relative_to(self.root).as_posix(), path)
        return False

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


@contextmanager
def _damaged_or_raised() -> Iterator[None]:
    """Go on after a file that is damaged in the bucket; whatever else is wrong is raised."""
    try:
        yield
    except BucketError as error:
        if error.reason not in DAMAGED:
            raise
