"""The benchmarks of tuning and of Dagster's overhead, in small: both sides do the same work."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.overhead import BAR, SLOWEST, overhead


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads of tests that run beside would wait


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


def test_overhead_counts_all_that_is_not_the_assets_own(tmp_path: Path) -> None:
    whole, own, share, *slowest = overhead("smoke", tmp_path)
    assert 0 < own.ours < whole.ours
    assert share.ours == pytest.approx(100 * (1 - own.ours / whole.ours))
    assert share.holds == (share.ours <= BAR)
    seconds = [record.ours for record in slowest]
    assert len(seconds) == SLOWEST
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) < whole.ours
