"""A disk that is full and folders that refuse, outside of tuning: one sentence and no traceback."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
import pytest
from conftest import ROOT, SYMTUNE

from assets.step import user_errors
from symtune_pipeline.errors.disk import disk_sentence


def _os_error() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/home/x")


def _wrapped() -> None:
    try:
        _os_error()
    except OSError as error:
        raise RuntimeError("a library") from error


def _polars() -> None:
    pl.DataFrame({"n": [1]}).write_parquet("/dev/full")


def _duckdb() -> None:
    duckdb.sql("COPY (SELECT range AS n FROM range(100_000)) TO '/dev/full' (FORMAT csv)")


def _sqlite() -> None:
    sqlite3.connect("/proc/nothing/x.db").execute("CREATE TABLE t (n)")


@pytest.mark.parametrize("write", [_os_error, _wrapped, _polars, _duckdb, _sqlite])
def test_whichever_library_finds_it_out_it_is_one_sentence(write: Callable[[], None]) -> None:
    with pytest.raises(dg.Failure) as failure, user_errors():
        write()
    sentence = failure.value.description or ""
    assert "cannot be written" in sentence and "\n" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENOTDIR])
def test_what_is_refused_may_have_been_read(number: int) -> None:
    sentence = disk_sentence(OSError(number, os.strerror(number), "/home/x"))
    assert sentence and sentence.startswith("/home/x cannot be read or written (")
    assert "SYMTUNE_CACHE" in sentence, "where the home is on s3, the disk is the cache's"


def test_other_errors_keep_their_traceback() -> None:
    for error in (ValueError("no space"), FileNotFoundError(errno.ENOENT, "x"), KeyError("full")):
        assert disk_sentence(error) is None
        with pytest.raises(type(error)), user_errors():
            raise error


def _run(
    folder: Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [SYMTUNE, "run", "--experiment", "smoke"]
    home = {"SYMTUNE_HOME": str(folder / "home"), "DAGSTER_HOME": str(folder / "dagster")}
    return subprocess.run(
        [*command, "--select", "raw_hotel_reviews"],
        cwd=ROOT, env=os.environ | home, preexec_fn=before, capture_output=True, text=True, check=False,
    )  # fmt: skip


def _sentence(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode in (1, 2), ended.stderr
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.slow
def test_a_run_on_a_full_disk_is_one_sentence_and_the_next_goes_on(tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    full = _run(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000)))
    assert "cannot be written" in _sentence(full)
    assert _run(tmp_path).returncode == 0


@pytest.mark.slow
def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "home").write_text("no folder")
    assert str(tmp_path / "home") in _sentence(_run(tmp_path))
