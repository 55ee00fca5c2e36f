"""S3 at its worst: what may pass is tried again, what is damaged there is found, and who is to blame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from flaky_server import FAULTS, Flaky, flaky

from symtune_pipeline.catalog.datasets import HubLocation
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import TABLE
from symtune_pipeline.sources.mirror import Mirror
from symtune_pipeline.store import bucket as bucket_module
from symtune_pipeline.store.bucket import Bucket, BucketStore, default_client

TABLE_OF = pl.DataFrame({"number": [1, 2, 3]})
HUB = HubLocation(repository="owner/set", splits={"train": "train"})


@pytest.fixture
def behind(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that does as it should, without long pauses on our side."""
    monkeypatch.setattr(bucket_module, "PAUSES", (0.0,) * len(bucket_module.PAUSES))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    return os.environ["AWS_ENDPOINT_URL"]


@pytest.fixture
def broken(behind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    """A server that answers rightly until `share` is set."""
    with flaky(behind, 0) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        yield server


def _keep(store: BucketStore) -> None:
    for partition in ("small", "large"):
        with store.writing("numbers", partition, "this") as folder:
            TABLE_OF.write_parquet(folder / TABLE)
            (folder / "text").write_text("x" * 1_000)


@pytest.mark.parametrize("seed", range(5))
def test_a_store_survives_a_bucket_that_fails_every_fifth_time(
    seed: int, broken: Flaky, tmp_path: Path
) -> None:
    broken.share = 0.2
    url = f"s3://bucket/flaky-{seed}"
    _keep(BucketStore(tmp_path / "here", Bucket(url)))
    there = BucketStore(tmp_path / "there", Bucket(url))
    assert there.partitions("numbers") == ["large", "small"]
    for partition in ("small", "large"):
        assert there.read_table("numbers", partition).equals(TABLE_OF)
        assert there.up_to_date("numbers", partition, "this")
    assert set(broken.done) <= set(FAULTS) and broken.done


@pytest.mark.parametrize("fault", ["500", "503", "cut", "short"])
def test_what_may_pass_blames_no_setting_and_makes_nothing_again(
    fault: str, broken: Flaky, tmp_path: Path
) -> None:
    store = BucketStore(tmp_path / "here", Bucket(f"s3://bucket/blame-{fault}"))
    _keep(store)
    broken.share, broken.faults = 1.0, [fault]
    there = BucketStore(tmp_path / "there", Bucket(f"s3://bucket/blame-{fault}"))
    with pytest.raises(UserError) as error:
        there.read_table("numbers", "small")
    sentence = str(error.value)
    if (
        fault == "short"
    ):  # always the same wrong answer is damage, to which there is another way out
        assert sentence.endswith("manifest.json is damaged; materialise 'numbers' again.")
    else:
        assert "S3 or the network to it fails, and no setting; start again" in sentence
        assert "SYMTUNE_HOME" not in sentence and "settings:" not in sentence
        with pytest.raises(UserError):  # and not: it is to be made again, hours of tuning perhaps
            there.up_to_date("numbers", "small", "this")
    broken.share = 0.0
    assert there.read_table("numbers", "small").equals(TABLE_OF)


def test_a_mirror_that_fails_for_a_while_blames_no_setting(broken: Flaky) -> None:
    mirror = Mirror("s3://bucket/mirror")
    mirror.write(HUB, "train", TABLE_OF)
    broken.share, broken.faults = 1.0, ["503"]
    with pytest.raises(UserError, match="S3 or the network to it fails, and no setting"):
        mirror.read(HUB, "train")
    broken.share, broken.faults = 0.4, ["cut", "drop"]
    assert mirror.read(HUB, "train").equals(TABLE_OF)


@pytest.mark.parametrize("damage", ["another", "shorter", "gone"])
def test_what_is_damaged_in_the_bucket_is_put_there_again_from_a_whole_cache(
    damage: str, behind: str, tmp_path: Path
) -> None:
    url = f"s3://bucket/mended-{damage}"
    store, client = BucketStore(tmp_path / "here", Bucket(url)), default_client()
    _keep(store)
    version = store.manifest("numbers", "small").version
    key = f"mended-{damage}/numbers/small/{version}/{TABLE}"
    content = client.get_object(Bucket="bucket", Key=key)["Body"].read()
    if damage == "gone":
        client.delete_object(Bucket="bucket", Key=key)
    else:
        other = content[:-9] if damage == "shorter" else content[:-1] + b"?"
        client.put_object(Bucket="bucket", Key=key, Body=other)
    there = BucketStore(tmp_path / "there", Bucket(url))
    with pytest.raises(UserError, match="materialise 'numbers' again"):
        there.read_table("numbers", "small")
    assert store.up_to_date("numbers", "small", "this")
    assert there.read_table("numbers", "small").equals(TABLE_OF)


def test_a_file_that_is_another_than_was_put_there_is_not_handed_out(
    behind: str, tmp_path: Path
) -> None:
    bucket, client = Bucket("s3://bucket/noted"), default_client()
    (tmp_path / "file").write_text("what was put there")
    bucket.upload_file(tmp_path / "file", "file")
    noted = client.head_object(Bucket="bucket", Key="noted/file")["Metadata"]
    client.put_object(Bucket="bucket", Key="noted/file", Body=b"another", Metadata=noted)
    with pytest.raises(UserError, match="it came garbled"):
        bucket.download_file("file", tmp_path / "copy")
