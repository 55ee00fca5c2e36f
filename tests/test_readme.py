"""The README's commands of "In Dagster" and "Next steps", as they stand, in a shell after `source .envrc`.

They run in a copy of the checkout, so that `.envrc` itself says where Dagster's files and the store
lie: nothing that it sets is set otherwise or left out, and nobody's own store is touched. A smoke
run lies in the copy's store; its model stands for the one that the README names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil
import pytest
from conftest import ROOT, Ended, Home
from sockets import listening

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands_of(section: str) -> list[str]:
    """The lines of a section's code blocks, without what is said of them."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line.split("  ")[0] for block in blocks for line in block.splitlines()]


COMMANDS = commands_of("In Dagster")
SERVERS = [command for command in COMMANDS if command.endswith(" dev")]
EVALUATIONS = [command for command in COMMANDS if "'eval*'" in command]
LOADS = [command for command in COMMANDS if "raw_hotel_reviews" in command]
CHECKS = ["dg list defs", "dg check defs"]
NEXT = {  # what each says
    "symtune report --open": "Report: ",
    "symtune show prompt --dataset hotel_reviews": "[[",
    'symtune query "SELECT setting, variant, accuracy FROM mart_summary"': "symbols, no instruction",
    "symtune plan --experiment paper --model olmo2-7b --gpus 8 --gpu h100": "It fits: ",
    "symtune init mine.yaml --data my.csv": "mine.yaml",
    "symtune doctor": "memory",
}
PATIENCE = 120  # seconds for what takes a few on a machine that does nothing else
SERVING = re.compile(r"Serving dagster-webserver on (http://127\.0\.0\.1:\d+)")
WORKSPACE = """{ workspaceOrError { ... on Workspace { locationEntries {
    name loadStatus locationOrLoadError { __typename } } } } }"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the checkout, and the home of a person who has never run Dagster."""

    folder: Path
    user: Path

    @property
    def store(self) -> Path:
        return self.folder / ".symtune" / "smoke"

    def start(self, command: str, output: int | TextIO) -> subprocess.Popen[str]:
        """Starts a command as a person does, who has sourced `.envrc` in a new shell."""
        others = ("DAGSTER", "SYMTUNE_", "DG_", "PYTHONPATH", "VIRTUAL_ENV", "XDG_")
        login = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        return subprocess.Popen(
            ["bash", "-c", f"source .envrc\n{command}"],
            cwd=self.folder,
            env=login | {"HOME": str(self.user), "SYMTUNE_EXPERIMENT": "smoke"},
            stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def end(self, command: str) -> tuple[int, str]:
        """How a command ends, and what it says."""
        process = self.start(command, subprocess.PIPE)
        said, _ = process.communicate(timeout=5 * PATIENCE)
        return process.returncode, said

    def run(self, command: str) -> str:
        """What a command says, which has to succeed."""
        code, said = self.end(command)
        assert code == 0, said
        return said

    def noted_for_telemetry(self) -> list[Path]:
        """What Dagster keeps, in its own folder or the user's, once it may report what it is used for."""
        own = self.folder / ".dagster"
        places = (own / ".telemetry", own / "logs" / "event.log", self.user / ".dagster")
        return [place for place in places if place.exists()]


@pytest.fixture(scope="module")
def checkout(smoke_run: tuple[Home, Ended], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = tmp_path_factory.mktemp("readme")
    made = Checkout(folder / "checkout", folder / "user")
    made.user.mkdir()
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    names = (".git", ".dagster", *(name.rstrip("/") for name in ignored))
    shutil.copytree(ROOT, made.folder, ignore=shutil.ignore_patterns(*names))
    (made.folder / ".dagster").mkdir()
    shutil.copy(ROOT / ".dagster" / "dagster.yaml", made.folder / ".dagster")
    (made.folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    shutil.copytree(smoke_run[0].store.root, made.store)
    return made


@dataclass
class Server:
    """A server that was started in a checkout, what it writes, and the address that it says."""

    process: psutil.Process
    log: Path
    url: str = ""

    def until(self, found: Callable[[], Any]) -> Any:
        """Waits for what is looked for; fails with the log where that takes too long."""
        end = time.monotonic() + PATIENCE
        while not (result := found()):
            ended = self.process.status() == psutil.STATUS_ZOMBIE
            if ended or time.monotonic() > end:
                pytest.fail(f"not found: {self.log.read_text(encoding='utf-8')}")
            time.sleep(0.2)
        return result


@contextmanager
def served(checkout: Checkout, command: str) -> Iterator[Server]:
    """A server that says that it serves; it is stopped as with Ctrl-C."""
    log = checkout.folder.parent / f"{command.replace(' ', '_')}.log"
    with log.open("w") as output:
        process = checkout.start(command, output)
    server = Server(psutil.Process(process.pid), log)
    try:
        said = server.until(lambda: SERVING.search(log.read_text(encoding="utf-8")))
        server.url = said.group(1)
        yield server
    finally:
        stop(process, log)


def stop(process: subprocess.Popen[str], log: Path) -> None:
    """Ends a server and all that it has started."""
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, alive = psutil.wait_procs(started, timeout=PATIENCE / 4)
    for one in alive:
        one.kill()
    process.kill()
    process.wait()
    assert alive == [], f"still there after Ctrl-C: {log.read_text(encoding='utf-8')}"


def ask(url: str, query: str | None = None) -> Any:
    """What a server answers, to a GraphQL query where there is one; None while it does not."""
    body = None if query is None else json.dumps({"query": query}).encode()
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return None
    return json.loads(text) if text.startswith("{") else text


def locations(url: str) -> list[tuple[str, str, str]] | None:
    """Every code location: its name, its state, what became of it; None while one is loading."""
    entries = ask(f"{url}/graphql", WORKSPACE)["data"]["workspaceOrError"]["locationEntries"]
    if any(entry["loadStatus"] != "LOADED" for entry in entries):
        return None
    return [
        (entry["name"], entry["loadStatus"], entry["locationOrLoadError"]["__typename"])
        for entry in entries
    ]


def test_the_section_has_the_commands_that_these_tests_run() -> None:
    assert COMMANDS[0] == "source .envrc"
    assert sorted(COMMANDS[1:]) == sorted([*SERVERS, *EVALUATIONS, *LOADS, *CHECKS])
    assert {"dg dev", "dagster dev"} == set(SERVERS)
    ours, theirs = "dg launch --assets", "dagster asset materialize --select"
    assert {f"{start} 'eval*' --partition smollm2-135m" for start in (ours, theirs)} == set(
        EVALUATIONS
    )
    assert {f"{start} raw_hotel_reviews" for start in (ours, theirs)} == set(LOADS)


@pytest.mark.parametrize("command", SERVERS)
def test_a_server_shows_the_code_location_on_this_machine_only(
    checkout: Checkout, command: str
) -> None:
    with served(checkout, command) as server:
        assert "dagster_version" in server.until(lambda: ask(f"{server.url}/server_info"))
        assert server.until(lambda: locations(server.url)) == [
            ("symtune_pipeline", "LOADED", "RepositoryLocation")
        ]
        assert {address for address, _ in listening(server.process.pid)} == {"127.0.0.1"}
        assert '"telemetryEnabled": false' in ask(server.url)
    assert checkout.noted_for_telemetry() == []


@pytest.mark.parametrize("command", EVALUATIONS)
def test_an_evaluation_makes_what_is_missing_and_nothing_else(
    checkout: Checkout, command: str
) -> None:
    shutil.rmtree(checkout.store / "eval_report")
    said = checkout.run(command.replace("smollm2-135m", "micro"))
    assert re.findall(r"(\w+): (?:[\d,]+ rows, )?made in", said) == ["eval_report"]
    assert "eval_icl: up to date" in said
    assert any((checkout.store / "eval_report").glob("*/index.html"))
    assert checkout.noted_for_telemetry() == []


@pytest.mark.parametrize("command", LOADS)
def test_one_dataset_is_loaded(checkout: Checkout, command: str) -> None:
    shutil.rmtree(checkout.store / "raw_hotel_reviews")
    assert "raw_hotel_reviews: " in checkout.run(command)
    assert any((checkout.store / "raw_hotel_reviews").iterdir())
    assert checkout.noted_for_telemetry() == []


def test_everything_can_be_loaded_and_dg_warns_of_nothing(checkout: Checkout) -> None:
    assert checkout.run("dg check defs").splitlines() == [
        "All component YAML validated successfully.",
        "All definitions loaded successfully.",
    ]
    assert checkout.noted_for_telemetry() == []


def test_a_mistake_in_the_code_location_is_found(checkout: Checkout) -> None:
    code, said = checkout.end("SYMTUNE_EXPERIMENT=none_of_that_name dg check defs")
    assert code == 1
    assert "Experiment file" in said


def test_what_there_is_is_listed(checkout: Checkout) -> None:
    listed = checkout.run("dg list defs")
    for name in ("eval_report", "symbol_tuning", "weekly_refresh", "keep_up_to_date"):
        assert f" {name} " in listed
    assert "Warning" not in listed
    assert checkout.noted_for_telemetry() == []


def test_the_other_commands_of_dagster_find_the_code_location(checkout: Checkout) -> None:
    assert checkout.run("dagster asset list --select eval_report").split() == ["eval_report"]
    assert "weekly_refresh" in checkout.run("dagster schedule list")


@pytest.mark.parametrize(("command", "said"), NEXT.items())
def test_a_next_step_is_taken(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.setenv("BROWSER", "true")  # one that opens anything
    rows = [f"day {n} at the sea,{n % 2}" for n in range(60)]
    (checkout.folder / "my.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    assert said in checkout.run(command)


def test_every_next_step_is_tried() -> None:
    assert commands_of("Next steps") == list(NEXT)
