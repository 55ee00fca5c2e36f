"""A prefix on s3: what goes up comes down, and what goes wrong is one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import moto.settings
import pytest

from symtune_pipeline.errors import UserError
from symtune_pipeline.store.bucket import Bucket


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, and one in a folder of its own."""
    (tmp_path / "local" / "deep").mkdir(parents=True)
    (tmp_path / "local" / "top.txt").write_text("top")
    (tmp_path / "local" / "deep" / "low.txt").write_text("low")
    return tmp_path / "local"


@pytest.mark.parametrize("prefix", ["", "/", "/one", "/one/two/"])
def test_a_folder_comes_down_as_it_went_up(
    prefix: str, s3: str, folder: Path, tmp_path: Path
) -> None:
    bucket = Bucket(s3 + prefix)
    bucket.upload_folder(folder, "here/1")
    bucket.write_text("here/1x", "a neighbour")
    assert bucket.keys("here/1") == ["here/1/deep/low.txt", "here/1/top.txt"]
    bucket.download_folder("here/1", tmp_path / "copy")
    copied = sorted(path for path in (tmp_path / "copy").rglob("*") if path.is_file())
    assert [(path.name, path.read_text()) for path in copied] == [
        ("low.txt", "low"),
        ("top.txt", "top"),
    ]
    bucket.remove_folder("here/1")
    assert bucket.keys("here") == ["here/1x"]
    bucket.remove_folder("here")


@pytest.mark.parametrize("name", ["../../outside", "deep/../../outside"])
def test_a_key_that_leads_out_of_its_folder_is_not_written(
    name: str, s3: str, tmp_path: Path
) -> None:
    bucket = Bucket(f"{s3}/leading")
    bucket.write_text(f"here/{name}", "x")
    with pytest.raises(UserError, match=r"leading/here holds the name '.*outside', which no job"):
        bucket.download_folder("here", tmp_path / "one" / "two")
    assert not list(tmp_path.rglob("outside"))


def test_more_keys_than_a_page_holds_are_all_listed(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    bucket = Bucket(f"{s3}/many")
    for key in "abcde":
        bucket.write_text(key, "")
    assert bucket.keys() == list("abcde")


def test_a_text_is_replaced_and_may_be_missing(s3: str) -> None:
    bucket = Bucket(f"{s3}/texts")
    assert bucket.read_text("note") is None
    for text in ("é", "later"):
        bucket.write_text("note", text)
        assert bucket.read_text("note") == text


def test_a_file_that_is_not_there_leaves_nothing(s3: str, tmp_path: Path) -> None:
    assert not Bucket(s3).download_file("nothing", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    # pragma: allowlist nextline secret
    ["s3://", "s3:///prefix", "s3://key:secret@bucket/x", "gs://bucket", "bucket"],
)
def test_what_is_no_address_on_s3_is_said_without_repeating_it(url: str) -> None:
    with pytest.raises(
        UserError, match=r"s3://<bucket>/<prefix>, .* correct SYMTUNE_HOME, or"
    ) as error:
        Bucket(url)
    assert "secret" not in str(error.value)


USES: dict[str, Callable[[Bucket, Path], object]] = {
    "list": lambda bucket, folder: bucket.keys("key"),
    "read": lambda bucket, folder: bucket.read_text("key"),
    "write": lambda bucket, folder: bucket.write_text("key", "text"),
    "upload": lambda bucket, folder: bucket.upload_folder(folder, "key"),
}


def _sentence(bucket: Bucket, use: str, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        USES[use](bucket, folder)
    text = str(error.value)
    assert text.startswith(f"{bucket.url('key')}") and text.endswith(".") and "\n" not in text
    for secret in ("test-key", "test-secret", os.environ["AWS_ENDPOINT_URL"], "127.0.0.1"):
        assert secret not in text
    return text


@pytest.mark.parametrize("use", USES)
def test_a_bucket_that_does_not_exist_is_one_sentence(use: str, s3: str, folder: Path) -> None:
    assert "(NoSuchBucket); correct the bucket's name" in _sentence(
        Bucket("s3://nowhere/x"), use, folder
    )


@pytest.mark.parametrize("use", USES)
def test_refused_access_is_one_sentence(
    use: str, s3: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # it now checks keys
    assert "(InvalidAccessKeyId)" in _sentence(Bucket(s3), use, folder)


@pytest.mark.parametrize("use", ["list", "upload"])
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "EndpointConnectionError"),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "ValueError"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"}, "NoCredentialsError"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_sentence(
    use: str,
    changed: dict[str, str],
    reason: str,
    s3: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    assert f"({reason})" in _sentence(Bucket(s3), use, folder)
