"""What runs by itself: conditions, retries, dropped models; schedule, sensor and backfill in a daemon."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from conftest import ROOT, Ended, Home
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.scheduler.instigation import ScheduleInstigatorData
from dagster._core.utils import make_new_run_id
from safetensors.numpy import save_file
from sockets import Watch

from assets.attributes import with_attributes
from assets.incoming import incoming_models
from assets.location import code_location
from assets.sql import sql_assets
from assets.step import user_errors
from resources.store import StoreResource
from symtune_pipeline.errors import JobLost, UserError
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.files import TABLE, content_hash
from symtune_pipeline.models.folder import lacking
from symtune_pipeline.store.folder import Store

PATIENCE = 600  # seconds that a daemon may take
DAY = 24 * 60 * 60


# --- conditions -----------------------------------------------------------------------------------


@cache
def definitions() -> dg.Definitions:
    """The graph of the smoke experiment, for two models."""
    smoke = load_experiment("smoke")
    return code_location(smoke.model_copy(update={"models": ("micro", "smollm2-135m")}))


class Graph:
    """The graph with an instance, in which assets are made by saying so."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.nodes = {
            node.key.to_user_string(): node
            for node in definitions().resolve_asset_graph().asset_nodes
        }
        self.instance = instance
        self.cursor: AssetDaemonCursor | None = None

    def made(
        self, name: str, version: str, partition: str | None = None, holds: bool = True
    ) -> None:
        """A run has made an asset with this content, and its checks hold or not."""
        run = make_new_run_id()
        tags = {"dagster/data_version": version}
        made = dg.AssetMaterialization(name, partition=partition, tags=tags)
        self._report(DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(made), run)
        (record,) = self.instance.fetch_materializations(dg.AssetKey(name), limit=1).records
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=run, timestamp=record.timestamp
        )
        for check in self.nodes[name].check_keys:
            evaluation = dg.AssetCheckEvaluation(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=holds,
                partition=partition,
                target_materialization_data=target,
            )
            self._report(DagsterEventType.ASSET_CHECK_EVALUATION, evaluation, run)

    def _report(self, kind: DagsterEventType, data: Any, run: str) -> None:
        """What a run says; Dagster's way of saying it without one keeps one check of a partition."""
        event = DagsterEvent(kind.value, job_name="", event_specific_data=data)
        self.instance.report_dagster_event(event, run_id=run)

    def wanted(self) -> set[str]:
        """What the next tick asks for."""
        result = dg.evaluate_automation_conditions(definitions(), self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return {name for name, node in self.nodes.items() if result.get_num_requested(node.key)}


@pytest.fixture
def graph() -> Iterator[Graph]:
    """Every asset without partitions made, those of `micro` too, and a first tick that has seen it."""
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Graph(instance)
        for name, node in graph.nodes.items():
            graph.made(name, "1", "micro" if node.partitions_def else None)
        assert graph.wanted() == set()
        yield graph


def test_a_changed_dataset_brings_the_data_side_up_to_date_one_model_after_the_other(
    graph: Graph,
) -> None:
    graph.made("raw_hotel_reviews", "2")
    wanted = graph.wanted()
    assert wanted >= {"stg_examples", "int_examples", "int_tuning_examples", "tuning_mixture"}
    assert not [name for name in wanted if name.startswith("raw_")]


def test_a_dataset_that_is_loaded_again_unchanged_makes_nothing(graph: Graph) -> None:
    graph.made("raw_hotel_reviews", "1")
    assert graph.wanted() == set()


def test_a_new_model_is_packed_tuned_and_evaluated_and_no_other(graph: Graph) -> None:
    graph.made("base_model", "1", "smollm2-135m")
    assert graph.wanted() >= {"packed_mixture", "symbol_tuned_model", "eval_icl"}


def test_nothing_is_tuned_on_a_mixture_that_the_guard_refuses(graph: Graph) -> None:
    graph.made("int_contamination", "2", holds=False)
    assert not graph.wanted() & {"packed_mixture", "symbol_tuned_model"}


def test_answers_of_one_model_are_summed_up_although_others_have_none(graph: Graph) -> None:
    graph.made("eval_icl", "2", "micro")
    assert graph.wanted() >= {"int_outcomes", "int_scores", "mart_summary"}


@pytest.fixture
def two_models(graph: Graph) -> Graph:
    """All that `micro` has is there for a second model, too, and seen."""
    for name, node in graph.nodes.items():
        if node.partitions_def:
            graph.made(name, "1", "smollm2-135m")
    graph.wanted()
    return graph


@pytest.mark.parametrize("failing", ["micro", "smollm2-135m"])
def test_one_models_failed_check_is_not_hidden_by_another_model_that_passes(
    two_models: Graph, failing: str
) -> None:
    for model in ("micro", "smollm2-135m"):
        two_models.made("packed_mixture", "2", model, holds=model != failing)
    result = dg.evaluate_automation_conditions(
        definitions(), two_models.instance, cursor=two_models.cursor
    )
    wanted = result.get_requested_partitions(dg.AssetKey("symbol_tuned_model"))
    assert wanted == {"micro", "smollm2-135m"} - {failing}


@pytest.mark.parametrize("failing", ["micro", "smollm2-135m"])
def test_a_failed_check_of_one_model_keeps_the_sums_as_they_are(
    two_models: Graph, failing: str
) -> None:
    for model in ("micro", "smollm2-135m"):
        two_models.made("eval_icl", "2", model, holds=model != failing)
    assert not two_models.wanted() & {"int_outcomes", "int_scores", "mart_summary"}


# --- attributes -----------------------------------------------------------------------------------


def test_every_asset_has_an_owner_kinds_and_links_to_code_that_exists(graph: Graph) -> None:
    for name, node in graph.nodes.items():
        assert node.description and node.group_name and node.code_version, name
        assert node.owners == ["team:symbol-tuning"] and node.kinds, name
        references = node.metadata["dagster/code_references"].code_references
        assert references, name
        for reference in references:
            lines = Path(reference.file_path).read_text(encoding="utf-8").splitlines()
            assert 1 <= reference.line_number <= len(lines), name
        if "sql" in node.kinds:
            assert Path(references[0].file_path).name == f"{name}.sql"


@pytest.mark.parametrize(
    ("tree", "link"),
    [
        (
            "https://github.com/me/fork/tree/main",
            "https://github.com/me/fork/tree/main/dbt_like_sql/staging/stg_examples.sql#L1",
        ),
        (
            "https://gitlab.com/me/fork/-/tree/dev",
            "https://gitlab.com/me/fork/-/tree/dev/dbt_like_sql/staging/stg_examples.sql#L1",
        ),
    ],
)
def test_code_is_linked_to_in_a_branch_where_one_is_named(tree: str, link: str) -> None:
    linked = with_attributes(sql_assets(load_experiment("smoke")), "smoke", tree)
    (spec,) = [
        spec for asset in linked for spec in asset.specs if spec.key.path == ["stg_examples"]
    ]
    assert spec.metadata["dagster/code_references"].code_references[0].url == link


# --- retries and two runs at once -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "tries"),
    [(JobLost("lost"), 2), (UserError("wrong"), 1), (dg.DagsterExecutionInterruptedError(), 1)],
)
def test_only_a_lost_job_is_tried_again(
    error: BaseException, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assets.step.RETRY_SECONDS", 0)
    tried: list[int] = []

    @dg.asset
    def tuned() -> None:
        tried.append(1)
        with user_errors():
            raise error

    ended = dg.materialize([tuned], raise_on_error=False)
    assert len(tried) == tries
    (failed,) = [event for event in ended.all_events if event.is_step_failure]
    told = failed.step_failure_data.user_failure_data
    assert (told and told.description) == (str(error) or None)


def test_no_asset_has_a_retry_policy_which_would_start_again_what_is_stopped(graph: Graph) -> None:
    for name, node in graph.nodes.items():
        definition = definitions().resolve_assets_def(node.key)
        assert definition.op.retry_policy is None, name


def test_of_two_runs_at_once_one_makes_an_asset_and_both_succeed(tmp_path: Path) -> None:
    built: list[int] = []
    ended: list[bool] = []

    @dg.asset(code_version="1")
    def slow(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        def build(folder: Path) -> None:
            built.append(1)
            time.sleep(1)
            pl.DataFrame({"a": [1]}).write_parquet(folder / TABLE)

        return store.make(context, build)

    def run() -> None:
        store = StoreResource(root=str(tmp_path))
        ended.append(dg.materialize([slow], resources={"store": store}).success)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (built, ended) == ([1], [True, True])


# --- dropped models -------------------------------------------------------------------------------


def drop(folder: Path, *, shards: int = 0) -> Path:
    """A folder with the files of a model, whole but of no use."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text('{"model_type": "none of ours"}', encoding="utf-8")
    names = [f"model-{i}.safetensors" for i in range(shards)] or ["model.safetensors"]
    for name in names:
        save_file({"weight": np.zeros(1_000, np.float32)}, folder / name)
    if shards:
        index = {"weight_map": dict(enumerate(names))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.mark.parametrize("shards", [0, 2])
def test_a_folder_is_complete_only_when_every_file_is_there_in_full(
    tmp_path: Path, shards: int
) -> None:
    whole = drop(tmp_path / "whole", shards=shards)
    assert lacking(whole) is None
    for path in whole.iterdir():
        copy = Path(shutil.copytree(whole, tmp_path / f"{path.name} cut"))
        (copy / path.name).write_bytes(path.read_bytes()[:-2])
        assert path.name in str(lacking(copy))
        (copy / path.name).unlink()
        if "index" not in path.name:
            assert path.name in str(lacking(copy))


def suites_made(home: Path, made_from: str = "settings") -> None:
    """The asset `eval` of an experiment was made, from these settings."""
    with Store(home / "smoke").writing("eval", made_from=content_hash(made_from)):
        pass


def look(home: Path) -> tuple[list[str | None], str | None]:
    """What the sensor asks for in a tick, by key, and why it asks for nothing."""
    store = StoreResource(root=str(home / "smoke"))
    found = incoming_models.evaluate_tick(dg.build_sensor_context(resources={"store": store}))
    return [request.run_key for request in found.run_requests or []], found.skip_message


def test_the_sensor_asks_once_for_each_complete_folder_and_again_for_a_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path))

    suites_made(tmp_path)
    assert look(tmp_path) == ([], f"Folder {tmp_path / 'incoming'} contains no model folder.")
    folder = drop(tmp_path / "incoming" / "theirs")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    keys, said = look(tmp_path)
    assert keys == []
    assert said == f"Folder {folder} waits: model.safetensors is missing or incomplete."

    weights.write_bytes(whole)
    drop(tmp_path / "incoming" / "half").joinpath("config.json").unlink()
    keys, _ = look(tmp_path)
    assert [str(key).split("-")[0] for key in keys] == ["theirs"]
    assert look(tmp_path)[0] == keys
    os.utime(weights, (0, 0))
    assert look(tmp_path)[0] != keys


def test_the_sensor_asks_again_when_the_suites_are_others_and_waits_while_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path))
    drop(tmp_path / "incoming" / "theirs")
    keys, said = look(tmp_path)
    assert keys == []
    assert said == (
        f"Model folders wait for the questions: {tmp_path}/smoke/eval holds nothing yet; materialise"
        " 'eval' first."
    )
    suites_made(tmp_path)
    keys, _ = look(tmp_path)
    assert len(keys) == 1 and look(tmp_path)[0] == keys
    suites_made(tmp_path, "other settings")
    again, _ = look(tmp_path)
    assert len(again) == 1 and again != keys


def test_the_sensor_looks_at_no_folder_where_results_are_on_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", "s3://bucket/mine")
    monkeypatch.setenv("SYMTUNE_CACHE", str(tmp_path))
    drop(tmp_path / "bucket" / "mine" / "incoming" / "theirs")
    keys, said = look(tmp_path)
    assert keys == []
    assert "SYMTUNE_HOME is on S3" in (said or "") and "the job evaluate_folder" in (said or "")


def test_an_odd_folder_waits_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMTUNE_HOME", str(tmp_path))
    incoming = tmp_path / "incoming"
    suites_made(tmp_path)
    drop(incoming / "pipe").joinpath("config.json").unlink()
    os.mkfifo(incoming / "pipe" / "config.json")
    drop(incoming / "deep").joinpath("config.json").write_text("[" * 100_000)
    drop(incoming / "index").joinpath("model.safetensors.index.json").write_text("3")
    drop(incoming / ".hidden")
    drop(incoming / os.fsdecode(b"\xff"))
    (incoming / "nowhere").symlink_to(tmp_path / "nothing")
    (incoming / "loop").symlink_to(incoming / "loop")
    os.mkfifo(incoming / "a pipe beside")
    said = look(tmp_path)[1] or ""
    assert (
        f"Folder {incoming}/\\xff waits: its name cannot be used: it holds what is not UTF-8."
        in said
    )
    assert f"Folder {incoming}/pipe waits: config.json is no ordinary file." in said
    assert said.count(" waits: ") == 5
    drop(incoming / "theirs")
    (key,) = look(tmp_path)[0]
    assert str(key).startswith("theirs-")


# --- a daemon -------------------------------------------------------------------------------------


class Daemon:
    """A real `dagster-daemon` beside a finished run of the smoke experiment."""

    def __init__(self, home: Home) -> None:
        self.environment = home.environment
        self.home = home.folder / "home"
        self.instance_folder = home.folder / "dagster"
        self.history = home.history
        self.store = home.store

    watch: Watch

    def command(self, *arguments: str) -> None:
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "definitions"]
        log = (self.instance_folder / "daemon.log").open("wb")
        with log:
            return subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, what: str, found: Callable[[], bool]) -> None:
        """Until it is so; fails with the daemon's log where it takes too long."""
        end = time.monotonic() + PATIENCE
        while not found():
            if time.monotonic() > end:
                log = (self.instance_folder / "daemon.log").read_text(encoding="utf-8")
                pytest.fail(f"no {what} within {PATIENCE} s:\n{log[-5_000:]}")
            time.sleep(1)


@pytest.fixture(scope="module")
def daemon(
    smoke_run: tuple[Home, Ended], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """The daemon, with the schedule switched on eight days ago and the sensor switched on."""
    daemon = Daemon(smoke_run[0].copy(tmp_path_factory.mktemp("daemon")))
    daemon.command("-m", "dagster", "schedule", "start", "weekly_evaluation", "-m", "definitions")
    daemon.command("-m", "dagster", "sensor", "start", "incoming_models", "-m", "definitions")
    with dg.DagsterInstance.from_config(str(daemon.history)) as instance:
        (state,) = (
            s for s in instance.all_instigator_state() if s.instigator_name == "weekly_evaluation"
        )
        switched_on = ScheduleInstigatorData("0 6 * * 1", start_timestamp=time.time() - 8 * DAY)
        instance.update_instigator_state(state.with_data(switched_on))
    process = daemon.start()
    try:
        with Watch(process.pid) as daemon.watch:
            yield daemon
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # and the code server that it started
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def instance(daemon: Daemon) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(daemon.history)) as instance:
        yield instance


def succeeded(instance: dg.DagsterInstance, job: str | None = None, **tags: str) -> bool:
    """Whether there are runs of a job, all of which have succeeded; fails where one has failed."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job, tags=tags))
    assert not [run for run in runs if run.status == dg.DagsterRunStatus.FAILURE]
    return bool(runs) and all(run.status == dg.DagsterRunStatus.SUCCESS for run in runs)


@pytest.mark.slow
def test_the_schedule_evaluates_every_model(daemon: Daemon, instance: dg.DagsterInstance) -> None:
    daemon.wait("evaluation", lambda: succeeded(instance, "evaluation"))
    tagged = {"dagster/schedule_name": "weekly_evaluation"}
    runs = instance.get_runs(dg.RunsFilter(job_name="evaluation", tags=tagged))
    assert {run.tags["dagster/partition"] for run in runs} == {"micro"}


@pytest.mark.slow
def test_the_sensor_waits_for_a_whole_model_and_evaluates_it(
    daemon: Daemon, instance: dg.DagsterInstance
) -> None:
    whole = daemon.store.folder("base_model", "micro")
    folder = daemon.home / "incoming" / "theirs"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("tokenizer.json"))
    (state,) = (
        s for s in instance.all_instigator_state() if s.instigator_name == "incoming_models"
    )

    def waits() -> bool:
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
        return any("tokenizer.json is missing" in (tick.skip_reason or "") for tick in ticks)

    daemon.wait("tick that skips", waits)
    shutil.copy(whole / "tokenizer.json", folder)
    daemon.wait("evaluation of the folder", lambda: succeeded(instance, "evaluate_folder"))
    theirs = daemon.store.read_table("incoming_classification", "theirs")
    ours = daemon.store.read_table("predictions_eval_icl", "micro-untuned")
    same = ours.join(theirs, on=["setting", "flipped_percent", "dataset", "context", "query"])
    assert len(same) == len(ours)
    assert same.filter(pl.col("prediction") != pl.col("prediction_right")).is_empty()
    record = instance.get_latest_materialization_event(dg.AssetKey("incoming_model"))
    assert record is not None and record.asset_materialization is not None
    assert "symbols, no instruction" in str(record.asset_materialization.metadata["accuracy"].value)


@pytest.mark.long
def test_a_backfill_makes_its_partitions(daemon: Daemon, instance: dg.DagsterInstance) -> None:
    shutil.rmtree(daemon.store.root / "base_model")
    instance.add_backfill(
        PartitionBackfill.from_asset_partitions(
            backfill_id="two",
            asset_graph=definitions().resolve_asset_graph(),  # type: ignore[arg-type]
            partition_names=["micro"],
            asset_selection=[dg.AssetKey("base_model")],
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
    )

    def done() -> bool:
        backfill = instance.get_backfill("two")
        assert backfill is not None and backfill.error is None
        return backfill.status.value == "COMPLETED_SUCCESS"

    daemon.wait("end of the backfill", done)
    assert daemon.store.partitions("base_model") == ["micro"]


@pytest.mark.slow
def test_the_daemon_and_its_runs_have_listened_on_this_machine_only(daemon: Daemon) -> None:
    """The last test of the daemon: it has seen what those before have started."""
    assert daemon.watch.beyond == []
