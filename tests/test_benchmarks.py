"""The benchmarks of tuning and of Dagster's overhead, in small: both sides do the same work."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from conftest import Ended, Home

from benchmarks.overhead import BAR, SLOWEST, overhead

pytestmark = pytest.mark.slow


def test_trl_trains_on_the_same_blocks_to_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl", reason="needs the optional packages of the benchmarks")
    from benchmarks.tuning import compared

    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    records = {
        record.measure.split(", ", 2)[-1]: record for record in compared("micro", 3, tmp_path)
    }
    losses = records["largest difference of 3 losses"]
    assert losses.ours < 1e-5
    assert losses.holds
    for name in ("1,024 tokens", "all_labels"):
        speed = records[name]
        assert speed.peer
        assert speed.ratio == pytest.approx(speed.ours / speed.peer)


def test_overhead_counts_all_that_is_not_the_assets_own(smoke_run: tuple[Home, Ended]) -> None:
    folder = smoke_run[0].folder / "dagster"
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        [run] = instance.get_run_records()
    assert run.start_time and run.end_time
    seconds = run.end_time - run.start_time
    whole, own, share, *slowest = overhead("smoke", folder, seconds)
    assert 0 < own.ours < whole.ours == seconds
    assert share.ours == pytest.approx(100 * (1 - own.ours / seconds))
    assert share.holds == (share.ours <= BAR)
    times = [record.ours for record in slowest]
    assert len(times) == SLOWEST
    assert times == sorted(times, reverse=True)
    assert sum(times) < seconds
