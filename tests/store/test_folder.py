"""Artifacts on disk: whole or not at all, and checked when they are read."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import TABLE
from symtune_pipeline.store.folder import Damaged, Store

OLD = pl.DataFrame({"number": [1, 2, 3]})
NEW = pl.DataFrame({"number": [4, 5]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _write(
    store: Store, table: pl.DataFrame, key: str = "numbers", partition: str | None = None
) -> None:
    with store.writing(key, partition) as folder:
        table.write_parquet(folder / TABLE)


def _one_sentence(error: pytest.ExceptionInfo[UserError], *parts: object) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    for part in parts:
        assert str(part) in text


def test_a_table_is_read_as_it_was_written(store: Store) -> None:
    _write(store, OLD)
    assert store.read_table("numbers").equals(OLD)
    assert store.manifest("numbers").rows == {TABLE: 3}


def test_a_new_version_replaces_the_old_and_leaves_nothing_of_it(store: Store) -> None:
    _write(store, OLD)
    _write(store, NEW)
    assert store.read_table("numbers").equals(NEW)
    left = sorted(path.name for path in (store.root / "numbers").iterdir())
    assert left == sorted([store.manifest("numbers").version, "manifest.json"])


def test_numbers_of_rows_are_not_read_against_other_rows(store: Store) -> None:
    _write(store, OLD)
    version = store.manifest("numbers").version
    for inputs in ({"numbers": version}, {}):  # earlier releases noted none
        with store.writing("drawn", inputs=inputs) as folder:
            OLD.write_parquet(folder / TABLE)
        assert store.read_input("drawn", "numbers").equals(OLD)
        _write(store, NEW)
        if inputs:
            with pytest.raises(UserError) as error:
                store.read_input("drawn", "numbers")
            _one_sentence(error, store.root, "'numbers'", "materialise 'drawn' first")
            _write(store, OLD)
    assert store.read_input("drawn", "numbers").equals(NEW)


def test_partitions_do_not_touch_each_other(store: Store) -> None:
    _write(store, OLD, partition="small")
    _write(store, NEW, partition="large")
    assert store.read_table("numbers", "small").equals(OLD)
    assert store.read_table("numbers", "large").equals(NEW)
    assert store.partitions("numbers") == ["large", "small"]


def test_the_same_content_has_the_same_version_wherever_it_is(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    _write(store, OLD)
    _write(other, OLD, key="elsewhere")
    assert store.manifest("numbers").version == other.manifest("elsewhere").version
    _write(other, NEW, key="elsewhere")
    assert store.manifest("numbers").version != other.manifest("elsewhere").version


def test_writing_the_same_content_again_leaves_the_files_in_place(store: Store) -> None:
    """A reader, or a crash, in between must never find the folder gone."""
    _write(store, OLD)
    before = (store.folder("numbers") / TABLE).stat().st_ino
    _write(store, OLD)
    assert (store.folder("numbers") / TABLE).stat().st_ino == before


def test_an_error_while_writing_leaves_the_old_artifact(store: Store) -> None:
    _write(store, OLD)
    with pytest.raises(RuntimeError, match="disk"), store.writing("numbers") as folder:
        NEW.write_parquet(folder / TABLE)
        raise RuntimeError("disk on fire")
    assert store.read_table("numbers").equals(OLD)
    assert len(list((store.root / "numbers").iterdir())) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
import polars as pl
from symtune_pipeline.files import TABLE
from symtune_pipeline.store.folder import Damaged, Store

with Store(Path(sys.argv[1])).writing("numbers") as folder:
    pl.DataFrame({"number": [4, 5]}).write_parquet(folder / TABLE)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_artifact_and_the_next_one_tidies_up(store: Store) -> None:
    _write(store, OLD)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(store.root)], check=False)
    assert killed.returncode == -signal.SIGKILL
    home = store.root / "numbers"
    assert len(list(home.iterdir())) == 3, "what the killed writer had begun"
    assert store.read_table("numbers").equals(OLD)
    _write(store, NEW)
    assert store.read_table("numbers").equals(NEW)
    assert len(list(home.iterdir())) == 2


@pytest.mark.parametrize("token", ["0123abcd", "51781234"], ids=["letters", "digits alone"])
def test_what_a_dead_process_has_left_goes_whatever_the_random_part_of_its_name(
    store: Store, token: str
) -> None:
    _write(store, OLD)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = store.root / "numbers" / f".writing-{socket.gethostname()}-{dead.pid}-{token}"
    left.mkdir()
    _write(store, NEW)
    assert not left.exists()


def test_what_writers_of_other_hosts_have_left_goes_when_nobody_can_be_at_work(
    store: Store,
) -> None:
    """Every container is a new host, and its processes cannot be asked for."""
    _write(store, OLD)
    home = store.root / "numbers"
    left = [home / ".writing-another-host-7-0123abcd", home / ".writing-host-8-0123abcd"]
    for folder in left:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "part").write_text("half")
    left.append(home / ".manifest.json-7")
    left[-1].write_text("{")
    (home / ".writing").mkdir()
    (home / "notes").write_text("somebody's own")
    _write(store, NEW)
    assert all(path.exists() for path in left), "somebody may be at work"
    long_ago = time.time() - 4 * 24 * 60 * 60
    for path in [each for top in left[:1] + left[2:] for each in (top, *top.rglob("*"))]:
        os.utime(path, (long_ago, long_ago))
    os.utime(left[1], (long_ago, long_ago))  # but in it is a file that was written just now
    _write(store, OLD)
    assert [path.exists() for path in left] == [False, True, False]
    assert (home / ".writing").exists() and (home / "notes").exists()


def test_a_first_write_that_is_killed_leaves_nothing_to_read(store: Store) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(store.root)], check=False)
    with pytest.raises(UserError) as error:
        store.read_table("numbers")
    _one_sentence(error, store.root / "numbers", "materialise 'numbers' first")


def test_what_was_never_made_is_one_sentence_with_its_partition(store: Store) -> None:
    with pytest.raises(UserError) as error:
        store.manifest("model", "micro")
    _one_sentence(error, store.root / "model" / "micro", "'model' for partition 'micro'")


@pytest.mark.parametrize(
    ("damage", "state"), [("change", "does not match"), ("remove", "is missing")]
)
def test_a_damaged_file_is_named_and_its_removal_is_the_way_out(
    store: Store, damage: str, state: str
) -> None:
    _write(store, OLD)
    path = store.folder("numbers") / TABLE
    if damage == "change":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        path.unlink()
    with pytest.raises(UserError) as error:
        store.read_table("numbers")
    _one_sentence(error, path, state, "materialise 'numbers' again")
    _write(store, OLD)
    assert store.read_table("numbers").equals(OLD)


NO_MANIFEST = ["", "{", "[]", "null", '{"version": "1"}', "\x00", "[" * 10_000, "9" * 5_000]


@pytest.mark.parametrize("content", NO_MANIFEST, ids=range(len(NO_MANIFEST)))
def test_a_damaged_manifest_is_one_sentence_and_mended_by_the_next_write(
    store: Store, content: str
) -> None:
    _write(store, OLD, partition="small")
    manifest = store.root / "numbers" / "small" / "manifest.json"
    manifest.write_text(content)
    with pytest.raises(Damaged) as error:
        store.read_table("numbers", "small")
    _one_sentence(error, manifest, "materialise 'numbers' again")
    assert store.table_once("numbers", "small", "this", lambda: NEW).equals(NEW)


def test_no_flipped_bit_of_a_manifest_is_believed(store: Store) -> None:
    _write(store, OLD)
    path = store.root / "numbers" / "manifest.json"
    whole, told = path.read_bytes(), store.manifest("numbers")
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert store.manifest("numbers") == told  # a space that is another space
        except Damaged:
            assert store.up_to_date("numbers", None, told.made_from) is None


@pytest.mark.parametrize("of", [("numbers", "large"), ("others", "small")])
def test_an_artifact_in_the_place_of_another_is_not_believed(
    store: Store, of: tuple[str, str]
) -> None:
    _write(store, OLD, partition="small")
    _write(store, NEW, *of)
    shutil.copytree(store.root.joinpath(*of), store.root / "numbers" / "small", dirs_exist_ok=True)
    with pytest.raises(Damaged, match=r"manifest\.json is damaged"):
        store.read_table("numbers", "small")
    assert store.up_to_date("numbers", "small", "") is None


def test_a_table_is_built_once_for_what_it_is_made_from(store: Store) -> None:
    calls: list[str] = []
    for made_from, table in [("a", OLD), ("a", OLD), ("b", NEW), ("b", NEW)]:

        def build(made_from: str = made_from, table: pl.DataFrame = table) -> pl.DataFrame:
            calls.append(made_from)
            return table

        assert store.table_once("kept", "micro", made_from, build).equals(table)
    assert calls == ["a", "b"]


def test_a_build_that_fails_is_tried_again(store: Store) -> None:
    def fail() -> pl.DataFrame:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        store.table_once("kept", "micro", "a", fail)
    assert store.table_once("kept", "micro", "a", lambda: OLD).equals(OLD)
