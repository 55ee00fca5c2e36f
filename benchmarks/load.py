"""How fast a large experiment stays usable: 278 datasets, 30 variants, 1,000 queued runs, 10,000 events.

The history of the experiment is filled through Dagster's own interface. Then the code location is
loaded, `symtune run` recognises one asset, and Dagster's web server answers for the data of the graph
and of a page of runs. Nothing is compared: the figures are times that a person waits.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import yaml
from dagster._core.utils import make_new_run_id

from assets.location import code_location
from benchmarks.common import ROOT, SYMTUNE, Record, report
from resources.history import FOLDER, job_origin
from symtune_pipeline.experiment import load_experiment

EVENTS, QUEUED, VARIANTS = 10_000, 1_000, 30
SETS = ("hotel_reviews", "trades", "hobby_posts", "magazine_topics")
SETTINGS = {
    "models": ["micro"],
    "data": {"source": "generated", "datasets": ["families", *SETS]},
    "mixture": {"prompts": 300},
    "variants": {f"seed_{n}": {"seed": n} for n in range(1, VARIANTS + 1)},
}
JOB = "symbol_tuning"
LOADED = "import time; t = time.time(); import definitions; print(time.time() - t)"
QUERIES = {
    "the graph with its latest materialisations": (
        "{assetNodes {assetKey {path} groupName assetMaterializations(limit: 1) {timestamp}}}"
    ),
    "the first page of runs": "{runsOrError(limit: 30) {... on Runs {results {runId status}}}}",
}


def fill(history: Path, keys: list[dg.AssetKey], events: int, queued: int) -> None:
    """Queued runs, and events spread over the assets."""
    run = dg.DagsterRun(
        job_name=JOB, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=job_origin(JOB)
    )
    with dg.DagsterInstance.from_config(str(history)) as instance:
        for _ in range(queued):
            instance.run_storage.add_run(run._replace(run_id=make_new_run_id()))
        for number in range(events):
            event = dg.AssetMaterialization(keys[number % len(keys)], metadata={"accuracy": 0.5})
            instance.report_runless_asset_event(event)


@contextmanager
def web_server(environment: dict[str, str]) -> Iterator[tuple[str, float]]:
    """Dagster's, on loopback: its address, and the seconds until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "-w", "workspace.yaml"]
    command += ["-h", "127.0.0.1", "-p", str(port)]
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    ask(url, "{version}")
                    break
                except (urllib.error.URLError, ConnectionError):
                    if server.poll() is not None:
                        raise
                    time.sleep(0.1)
            yield url, time.perf_counter() - started
        finally:
            server.terminate()


def ask(url: str, query: str) -> bytes:
    """The answer to a GraphQL query, as it came."""
    request = urllib.request.Request(
        f"{url}/graphql",
        json.dumps({"query": query}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:  # nosec B310
        return bytes(answer.read())


def timed(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """What a command prints, and its seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout, time.perf_counter() - started


def waits(
    home: Path, settings: Mapping[str, object], events: int = EVENTS, queued: int = QUEUED
) -> list[Record]:
    """How long a person waits for the experiment of these settings, in an empty folder."""
    path = home / "large.yaml"
    path.write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", home)
    environment = os.environ | {
        "SYMTUNE_HOME": str(home / "store"),
        "DAGSTER_HOME": str(home),
        "SYMTUNE_EXPERIMENT": str(path),
    }
    experiment = load_experiment(str(path))
    keys = sorted(code_location(experiment).resolve_asset_graph().get_all_asset_keys())
    command = [SYMTUNE, "run", "--experiment", str(path), "--select", "symbol_pool"]
    timed(command, environment)  # the asset is there, and modules are compiled
    _, alone = timed(command, environment)
    fill(home / FOLDER / "large", keys, events, queued)
    _, crowded = timed(command, environment)
    loaded, _ = timed([sys.executable, "-c", LOADED], environment)
    records = [
        Record("datasets", len(experiment.datasets()), None, ""),
        Record("assets", len(keys), None, ""),
        Record("loading the code location", float(loaded), None, "s"),
        Record("symtune run, one asset up to date, empty history", alone, None, "s"),
        Record("symtune run, one asset up to date, full history", crowded, None, "s"),
    ]
    with web_server(environment) as (url, seconds):
        records.append(Record("Dagster's UI, until it answers", seconds, None, "s"))
        for what, query in QUERIES.items():
            started = time.perf_counter()
            answer = json.loads(ask(url, query))
            took = time.perf_counter() - started
            if "errors" in answer or len(answer["data"].get("assetNodes", keys)) != len(keys):
                raise RuntimeError(f"the UI does not show the experiment: {str(answer)[:500]}")
            records.append(Record(f"Dagster's UI, {what}", took, None, "s"))
    return records


def main() -> None:
    """Measure, print, write."""
    with TemporaryDirectory() as made:
        report("load", waits(Path(made), SETTINGS))


if __name__ == "__main__":
    main()
