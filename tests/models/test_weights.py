"""Why weights cannot be had, from a small hub of our own over HTTP; base and pretrained model alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_hub import REVISION, FakeHub
from safetensors.numpy import save

pytestmark = pytest.mark.slow

GONE = "f" * 40
KINDS = ("base", "pretrained")
# The hub's variables are read when its client is imported, so each try is a process of its own.
FETCH = """
import json, resource, sys
from pathlib import Path
from symtune_pipeline.catalog.models import PackagedWeights, find_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.models.weights import prepare_base_model, prepare_pretrained_model

asked, told = json.loads(sys.argv[1]), {}
revision = asked["revision"]
model = find_model("smollm2-135m").model_copy(update={
    "instruct": "some/model", "revision": revision,
    "pretrained": "some/model", "pretrained_revision": revision,
    # Not installed: its sentence says that it was asked for.
    "package": PackagedWeights(
        name="weights-in-a-package", version="1", file="x.gguf", sha256="0"
    ) if asked["package"] else None,
})
if asked["most"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (asked["most"],) * 2)
for kind in asked["kinds"]:
    folder = Path(asked["folder"]) / kind
    folder.mkdir()
    try:
        if kind == "base":
            told[kind] = prepare_base_model(model, folder, lambda text: None, wait=0.01)
        else:
            told[kind] = prepare_pretrained_model(model, folder, wait=0.01)
    except UserError as error:
        told[kind] = str(error)
print(json.dumps(told))
"""
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = {"weight_map": dict(zip(("first", "second"), PARTS, strict=True))}
SHARD = save({"weight": np.zeros(4_000, dtype=np.float32)})
MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    **dict.fromkeys(PARTS, SHARD),
    "README.md": b"Not for us.",
    "onnx/config.json": b"{}",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub("some/model", dict(MODEL), kind="models").serving() as served:
        yield served


class Machine:
    """Tries in a folder of their own, which share the hub's cache."""

    def __init__(self, hub: FakeHub, home: Path) -> None:
        self.hub, self.home, self.tries = hub, home, 0
        self.folder = home

    def snapshot(self) -> Path:
        """Where the hub's cache keeps the revision."""
        return self.home / "hub" / "hub" / "models--some--model" / "snapshots" / REVISION

    def fetch(self, *, package: bool = False, most: int = 0, **asked: Any) -> dict[str, Any]:
        """For base and pretrained model the provenance, or the sentence why there is none."""
        self.hub.paths.clear()
        self.tries += 1
        self.folder = self.home / f"try {self.tries}"
        self.folder.mkdir()
        variables = asked.pop("variables", {})
        wish = {"folder": str(self.folder), "package": package, "most": most, "kinds": KINDS}
        wish |= {"revision": REVISION} | asked
        ours = ("HF_", "HUGGINGFACE_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env |= {"HF_HOME": str(self.home / "hub"), "HF_ENDPOINT": self.hub.endpoint, **variables}
        command = [sys.executable, "-c", FETCH, json.dumps(wish)]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        told: dict[str, Any] = json.loads(ended.stdout)
        return told

    def refused(self, **asked: Any) -> str:
        """The one sentence, the same for both models."""
        told = self.fetch(**asked)
        sentence = next(iter(told.values()))
        assert set(told.values()) == {sentence}
        assert "\n" not in sentence and sentence.endswith(".") and "Traceback" not in sentence
        return str(sentence)


@pytest.fixture
def machine(hub: FakeHub, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path)


def test_a_model_of_the_hub_comes_whole_and_from_then_on_without_asking(machine: Machine) -> None:
    for told in machine.fetch(package=True).values():
        assert (told["source"], told["repository"]) == ("hub", "some/model")
    for kind in KINDS:
        found = {path.name: path for path in (machine.folder / kind).iterdir()}
        assert found.keys() == {*MODEL, "provenance.json"} - {"README.md", "onnx/config.json"}
        assert found[PARTS[1]].read_bytes() == SHARD
    assert not [path for path in machine.hub.paths if "onnx" in path or "README" in path]
    # Kept, it needs no hub: not one that refuses, nor one that is silent.
    machine.hub.answers = {"some/model": (403, "GatedRepo")}
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        for told in machine.fetch(variables=variables).values():
            assert told["source"] == "hub"
        assert machine.hub.paths == []


@pytest.mark.parametrize(
    ("address", "status", "code", "says"),
    [
        ("some/model", 401, "GatedRepo", "has a licence to accept (status 401); accept it on its page"),
        ("/resolve/", 403, "GatedRepo", "has a licence to accept (status 403); accept it on its page"),
        (PARTS[1], 403, "GatedRepo", "has a licence to accept (status 403); accept it on its page"),
        ("some/model", 401, "", "not for everyone's eyes (status 401); log in with `hf auth login`"),
        ("some/model", 403, "", "not for everyone's eyes (status 403); log in with `hf auth login`"),
        ("some/model", 404, "RepoNotFound", "is not there (RepositoryNotFoundError: 404"),
        ("some/model", 429, "", "The hub answers with status 429 when asked for some/model"),
        ("some/model", 500, "", "The hub answers with status 500 when asked for some/model"),
        (PARTS[1], 404, "EntryNotFound", f"lacks the file {PARTS[1]} on the hub"),
    ],
)  # fmt: skip
def test_a_hub_that_refuses_is_one_sentence_that_says_why(
    machine: Machine, address: str, status: int, code: str, says: str
) -> None:
    machine.hub.answers = {address: (status, code)}
    sentence = machine.refused(package=True)  # which is not taken: the hub has answered
    assert says in sentence
    assert "some/model (model 'smollm2-135m', revision 0123" in sentence
    assert "reached" not in sentence and "package" not in sentence
    for kind in KINDS:
        assert not list((machine.folder / kind).iterdir())


def test_a_revision_that_vanished_is_one_sentence(machine: Machine) -> None:
    sentence = machine.refused(package=True, revision=GONE)
    assert f"revision {GONE}) is not there (RevisionNotFoundError: 404" in sentence
    assert sentence.endswith("; correct its entry in the catalogue.")


def test_a_busy_hub_is_asked_four_times_and_may_come_round(machine: Machine) -> None:
    machine.hub.troubles = 3
    assert machine.fetch(kinds=["base"])["base"]["source"] == "hub"
    assert machine.hub.troubles == 0

    machine.hub.answers = {"some/model": (429, "")}
    machine.refused(kinds=["pretrained"], revision=GONE)
    assert len([path for path in machine.hub.paths if "some/model" in path]) == 4


@pytest.mark.parametrize(
    ("variables", "says", "way_out"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, and of some/model", "unset it, or bring"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "The hub cannot be reached, and", "connect, or bring"),
        ({"HF_ENDPOINT": "nonsense"}, "The hub cannot be reached, and", "connect, or bring"),
    ],
)  # fmt: skip
def test_only_where_nothing_answers_the_package_is_asked_for(
    machine: Machine, variables: dict[str, str], says: str, way_out: str
) -> None:
    sentence = machine.refused(variables=variables)
    assert sentence.startswith(says) and way_out in sentence
    assert "all of its files are missing" in sentence
    told = machine.fetch(package=True, variables=variables)
    assert (
        "package weights-in-a-package, which has the weights too, is not installed" in told["base"]
    )
    assert told["pretrained"] == sentence  # a package holds no parent
    assert machine.hub.paths == []


@pytest.mark.parametrize(
    ("left_out", "instead", "names"),
    [
        (PARTS[1], {}, PARTS[1]),
        ("model.safetensors.index.json", {}, "model.safetensors"),
        (PARTS[0], {PARTS[0]: SHARD[:-1]}, PARTS[0]),
        ("tokenizer.json", {}, "tokenizer.json"),
        (
            "model.safetensors.index.json",
            {"pytorch_model.bin": b"weights", PARTS[0]: b"", PARTS[1]: b""},
            "model.safetensors",
        ),
        (
            "model.safetensors.index.json",
            {"model.safetensors.index.json": b'{"weight_map": {}}'},
            "model.safetensors.index.json",
        ),
    ],
)
def test_a_part_of_a_model_is_no_model_and_the_missing_file_is_named(
    machine: Machine, left_out: str, instead: dict[str, bytes], names: str
) -> None:
    whole = dict(machine.hub.files)
    machine.hub.files = {name: whole[name] for name in whole if name != left_out} | instead
    sentence = machine.refused(package=True)
    assert f"is no complete model of safetensors: {names} is " in sentence
    assert (
        f"delete {machine.snapshot().parents[1]} to" in sentence
        and "pin another revision" in sentence
    )
    # And so where the cache holds no more and nothing answers.
    sentence = machine.refused(variables={"HF_HUB_OFFLINE": "1"})
    assert f"the hub's cache is not complete: {names} is " in sentence
    assert not (machine.folder / "base" / "provenance.json").exists()


def test_a_configuration_alone_in_the_cache_is_completed_or_named(machine: Machine) -> None:
    machine.snapshot().mkdir(parents=True)
    (machine.snapshot() / "config.json").write_bytes(b"{}")
    (machine.snapshot() / "original").mkdir()
    sentence = machine.refused(variables={"HF_HUB_OFFLINE": "1"})
    assert "is not complete: tokenizer.json is missing" in sentence
    assert machine.fetch(kinds=["base"])["base"]["source"] == "hub"


def test_a_broken_off_download_leaves_its_rest_for_later(machine: Machine) -> None:
    machine.hub.answers = {PARTS[1]: (404, "EntryNotFound")}
    machine.refused()
    sentence = machine.refused(variables={"HF_HUB_OFFLINE": "1"})
    assert f"is not complete: {PARTS[1]} is missing" in sentence
    machine.hub.answers = {}
    assert machine.fetch(kinds=["base"])["base"]["source"] == "hub"


def test_a_full_disk_under_the_cache_names_it(machine: Machine) -> None:
    sentence = machine.refused(package=True, most=10_000)
    cache = machine.home / "hub" / "hub"
    assert f"cannot be kept in the hub's cache, {cache} (File too large); make room" in sentence
    assert "HF_HOME" in sentence
    assert machine.fetch(kinds=["base"])["base"]["source"] == "hub"


def test_a_full_disk_under_the_home_names_it(machine: Machine) -> None:
    machine.fetch()
    told = machine.fetch(most=10_000)
    for kind in KINDS:
        folder = machine.folder / kind
        assert told[kind].startswith(f"The weights cannot be kept in {folder} (File too large);")
        assert "SYMTUNE_HOME" in told[kind]


def test_a_cache_that_is_a_file_is_one_sentence(machine: Machine) -> None:
    (machine.home / "hub").write_text("")
    assert "cannot be kept in the hub's cache" in machine.refused(package=True)
