"""The benchmarks of tuning, of Dagster's overhead and of load, in small."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from conftest import Ended, Home

from benchmarks.common import Record
from benchmarks.load import SETS, waits
from benchmarks.overhead import BAR, SLOWEST, overhead
from resources.history import FOLDER

pytestmark = pytest.mark.slow


def test_trl_trains_on_the_same_blocks_to_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl", reason="needs the optional packages of the benchmarks")
    from benchmarks.tuning import compared

    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    records = {record.measure: record for record in compared("micro", 3, tmp_path)}
    name = "micro, 1,024 tokens"
    losses = records[f"{name}, largest difference of 3 losses in fp32"]
    assert losses.ours < 1e-5
    assert losses.holds
    assert records[f"{name}, ours in bf16 beside fp32"].ours < 0.02
    for measure in (name, f"{name}, all_labels"):
        speed = records[measure]
        assert speed.peer
        assert speed.ratio == pytest.approx(speed.ours / speed.peer)


def test_every_part_of_the_gpu_benchmark_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that its first run on a card does not end at a slip."""
    from benchmarks import gpu
    from benchmarks.gpu_bundle import write_bundle

    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path / "home"))
    write_bundle(tmp_path / "bundle", {512: 4}, prompts=30, model="micro")
    found: list[Record] = []
    monkeypatch.setattr(gpu, "print_table", found.extend)
    bundle = str(tmp_path / "bundle")
    gpu.main(["--device", "cpu", "--models", "micro", "--blocks", "512", "--bundle", bundle])
    by_name = {record.measure: record for record in found}
    loss = by_name["micro, blocks of 512, first loss"]
    assert loss.ours == pytest.approx(loss.peer)  # the peer keeps prompts apart, too
    assert any(name.startswith("micro, shared") for name in by_name)
    assert by_name["CPU fp32 against bf16, same choice"].ours == 100
    assert by_name["micro, job of 10 steps, loss at its end (peer: at its start)"].holds


def test_the_gpu_bundle_brings_what_torch_and_transformers_do_not() -> None:
    from benchmarks.gpu_bundle import lacking

    packages = lacking("3.12")
    assert {"polars", "polars-runtime-32", "pyarrow", "pandera", "pydantic-core"} <= packages.keys()
    # Another version of these beside the machine's own torch and transformers would break them.
    assert packages.keys().isdisjoint({"torch", "transformers", "numpy", "tokenizers", "triton"})


def test_overhead_counts_all_that_is_not_the_assets_own(smoke_run: tuple[Home, Ended]) -> None:
    folder = smoke_run[0].history
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


@pytest.mark.long
def test_a_large_experiment_is_loaded_run_and_shown(tmp_path: Path) -> None:
    few = {
        "models": ["micro"],
        "data": {"source": "generated", "datasets": list(SETS)},
        "mixture": {"prompts": 20},
        "variants": {"other": {"seed": 1}},
    }
    found = {record.measure: record.ours for record in waits(tmp_path, few, events=9, queued=3)}
    assert found.pop("datasets") == len(SETS) and found.pop("assets") > 40
    assert len(found) == 6 and min(found.values()) > 0
    with dg.DagsterInstance.from_config(str(tmp_path / FOLDER / "large")) as instance:
        queued = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
        assert instance.get_runs_count(queued) == 3 < instance.get_runs_count()
