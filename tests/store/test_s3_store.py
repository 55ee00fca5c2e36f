"""Artifacts on s3: as on disk, and right whatever the cache holds."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from botocore.exceptions import EndpointConnectionError

from symtune_pipeline.commands.main import main
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import TABLE
from symtune_pipeline.store.bucket import Bucket, BucketStore, default_client
from symtune_pipeline.store.folder import Store

OLD = pl.DataFrame({"number": [1, 2, 3]})
NEW = pl.DataFrame({"number": [4, 5]})


@pytest.fixture
def bucket(s3: str, tmp_path: Path) -> Bucket:
    """An empty prefix."""
    return Bucket(f"{s3}/{tmp_path.name}")


@pytest.fixture
def store(bucket: Bucket, tmp_path: Path) -> BucketStore:
    return BucketStore(tmp_path / "cache", bucket)


@pytest.fixture
def elsewhere(bucket: Bucket, tmp_path: Path) -> BucketStore:
    """The same store on another machine."""
    return BucketStore(tmp_path / "other cache", bucket)


def _write(
    store: Store, table: pl.DataFrame, partition: str | None = None, made_from: str = ""
) -> None:
    with store.writing("numbers", partition, made_from) as folder:
        table.write_parquet(folder / TABLE)


def test_what_one_machine_writes_another_reads(store: BucketStore, elsewhere: BucketStore) -> None:
    _write(store, OLD)
    assert elsewhere.read_table("numbers").equals(OLD)
    assert elsewhere.manifest("numbers") == store.manifest("numbers")
    _write(elsewhere, NEW)
    assert store.read_table("numbers").equals(NEW)


def test_the_version_is_that_of_the_same_artifact_on_disk(
    store: BucketStore, tmp_path: Path
) -> None:
    local = Store(tmp_path / "local")
    for each in (store, local):
        _write(each, OLD, made_from="this")
    assert store.manifest("numbers") == local.manifest("numbers")


def test_the_old_version_leaves_the_bucket_and_the_cache(
    store: BucketStore, bucket: Bucket
) -> None:
    _write(store, OLD)
    _write(store, NEW)
    version = store.manifest("numbers").version
    assert bucket.keys() == [f"numbers/{version}/{TABLE}", "numbers/manifest.json"]
    assert [path.name for path in (store.root / "numbers").iterdir()] == [version]


def test_keys_and_partitions_are_those_that_were_made(
    store: BucketStore, elsewhere: BucketStore
) -> None:
    _write(store, OLD, partition="small")
    _write(store, NEW, partition="large")
    with store.writing("alone") as folder:
        (folder / "text").write_text("text")
    assert elsewhere.all_keys() == ["alone", "numbers"]
    assert elsewhere.partitions("numbers") == ["large", "small"]
    assert elsewhere.partitions("alone") == elsewhere.partitions("never") == []
    assert elsewhere.read_table("numbers", "small").equals(OLD)


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_cache_is_healed(damage: str, store: BucketStore) -> None:
    _write(store, OLD, made_from="this")
    path = store.folder("numbers") / TABLE
    if damage == "change":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        path.unlink()
    assert store.up_to_date("numbers", None, "this") == store.manifest("numbers")
    assert store.read_table("numbers").equals(OLD)


def test_a_file_that_left_the_bucket_is_named_and_made_again(
    store: BucketStore, elsewhere: BucketStore, bucket: Bucket
) -> None:
    _write(store, OLD, made_from="this")
    version = store.manifest("numbers").version
    bucket.remove_folder(f"numbers/{version}")
    with pytest.raises(UserError) as error:
        elsewhere.read_table("numbers")
    assert str(error.value) == (
        f"File {bucket.url()}/numbers/{version}/{TABLE} is missing; materialise 'numbers' again."
    )
    assert elsewhere.up_to_date("numbers", None, "this") is None
    _write(elsewhere, OLD, made_from="this")
    assert elsewhere.read_table("numbers").equals(OLD)


def test_a_download_that_fails_is_no_reason_to_make_an_artifact_again(
    store: BucketStore, bucket: Bucket, tmp_path: Path
) -> None:
    """Making it again may be hours of tuning."""
    _write(store, OLD, made_from="this")

    def unreachable(**_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://secret.host")

    client = default_client()
    client.meta.events.register("before-call.s3.HeadObject", unreachable)
    elsewhere = BucketStore(tmp_path / "cache of another", Bucket(bucket.url(), lambda: client))
    with pytest.raises(UserError, match="EndpointConnectionError") as error:
        elsewhere.up_to_date("numbers", None, "this")
    assert "secret" not in str(error.value)


def test_what_was_never_made_and_a_damaged_manifest_are_one_sentence(
    store: BucketStore, bucket: Bucket
) -> None:
    with pytest.raises(UserError) as error:
        store.read_table("numbers")
    assert str(error.value) == (
        f"{bucket.url()}/numbers holds nothing yet; materialise 'numbers' first."
    )
    bucket.write_text("numbers/manifest.json", "{")
    with pytest.raises(
        UserError, match=r"numbers/manifest\.json is damaged; materialise 'numbers'"
    ):
        store.read_table("numbers")
    _write(store, OLD)
    assert store.read_table("numbers").equals(OLD)


KILLED = """
import os, signal, sys
from pathlib import Path
import polars as pl
from symtune_pipeline.store.bucket import Bucket, default_client
from symtune_pipeline.store.bucket import BucketStore
from symtune_pipeline.files import TABLE

def kill(params, **_):
    if params["Key"].endswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

client = default_client()
client.meta.events.register("before-parameter-build.s3.PutObject", kill)
with BucketStore(Path(sys.argv[1]), Bucket(sys.argv[2], lambda: client)).writing("numbers") as folder:
    pl.DataFrame({"number": [4, 5]}).write_parquet(folder / TABLE)
    (folder / "other").write_text("more")
"""


@pytest.mark.parametrize("before", ["other", "manifest.json"])
def test_an_upload_that_is_killed_leaves_the_old_artifact(
    before: str, store: BucketStore, elsewhere: BucketStore, bucket: Bucket
) -> None:
    """Killed between two files of a version, or before the manifest."""
    _write(store, OLD)
    command = [sys.executable, "-c", KILLED, str(store.root), bucket.url(), before]
    killed = subprocess.run(command, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(bucket.keys()) > 2, "what the killed upload had begun"
    assert store.read_table("numbers").equals(OLD)
    assert elsewhere.read_table("numbers").equals(OLD)
    _write(store, NEW)
    assert elsewhere.read_table("numbers").equals(NEW)


def test_the_command_line_looks_at_a_bucket(
    s3: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = f"{s3}/{tmp_path.name}"
    store = BucketStore(tmp_path / "cache", Bucket(f"{url}/smoke"))
    _write(store, OLD, "small")
    _write(store, NEW, "large")
    with store.writing("unasked") as folder:
        NEW.write_parquet(folder / TABLE)
    monkeypatch.setenv("SYMTUNE_HOME", f"{url}/")
    monkeypatch.setenv("SYMTUNE_CACHE", str(tmp_path / "user"))
    monkeypatch.setenv("SYMTUNE_EXPERIMENT", "smoke")

    def symtune(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["symtune", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capfd.readouterr()

    code, out, _ = symtune("query", "SELECT sum(number) + 1000 AS total FROM Numbers")
    assert code == 0 and "1015" in out
    assert "number" in symtune("show", "table", "numbers")[1]
    fetched = {path.parts[-3] for path in (tmp_path / "user").rglob(TABLE)}
    assert fetched == {"small", "large"}, "only what was asked for"
    code, _, err = symtune("show", "table", "nothing")
    assert code == 2 and f"There is no table 'nothing' in {url}/smoke; choose one of" in err
    monkeypatch.setenv("SYMTUNE_HOME", "s3://nowhere")
    code, out, err = symtune("query", "SELECT 1")
    assert (code, out) == (2, "")
    assert err.startswith(
        "error: s3://nowhere/smoke/experiment.json cannot be used (NoSuchBucket); "
    )
    assert err.count("\n") == 1
