"""Sets from the hub, over HTTP from a small hub of our own: what is asked again and what is said."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fake_hub import REVISION, FakeHub

pytestmark = pytest.mark.slow

GONE = "f" * 40
# The hub's variables are read when its client is imported, so each reading is a process of its own.
READ = """
import json, os, resource, sys
from symtune_pipeline.catalog.datasets import HubLocation
from symtune_pipeline.errors import MissingData, UserError
from symtune_pipeline.sources.hub import Hub

hub, told = Hub(wait=0.01), []
if "MOST" in os.environ:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["MOST"]),) * 2)
for config, parquet_branch, revision in json.loads(sys.argv[1]):
    location = HubLocation(
        repository="some/reviews", config=config, splits={"train": "train"}, revision=revision,
        parquet_branch=parquet_branch,
    )
    try:
        told.append(hub.read(location, "train")["text"].to_list())
    except MissingData as error:
        told.append(str(error))
    except UserError as error:
        told.append(f"No set to leave out: {error}")
print(json.dumps(told))
"""
PUBLISHED = ("default", False, REVISION)
BRANCH = ("overruling", True, REVISION)
OLD_BRANCH = ("terms", True, REVISION)
CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    files = {
        "README.md": CARD,
        "data/train-00000-of-00001.parquet": _parquet("dull", "fun"),
        "overruling/train/0000.parquet": _parquet("upheld", "overruled"),
        "overruling/test/0000.parquet": _parquet("unlabelled"),
        "terms/raft-train.parquet": _parquet("fair", "unfair"),
        "terms/raft-test.parquet": _parquet("unlabelled"),
    }
    with FakeHub("some/reviews", files).serving() as served:
        yield served


def _parquet(*texts: str) -> bytes:
    content = io.BytesIO()
    pl.DataFrame({"text": texts, "label": range(len(texts))}).write_parquet(content)
    return content.getvalue()


def _read(hub: FakeHub, home: Path, *sets: tuple[str, bool, str], **variables: str) -> list[Any]:
    """For each set its texts, or the sentence that says why it cannot be had."""
    hub.paths.clear()
    ours = ("HF_", "HUGGINGFACE_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, **variables}
    command = [sys.executable, "-c", READ, json.dumps(sets)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    told: list[Any] = json.loads(ended.stdout)
    for sentence in told:
        assert isinstance(sentence, list) or ("\n" not in sentence and sentence.endswith("."))
    return told


def _asked(hub: FakeHub) -> list[str]:
    return [path for path in hub.paths if "some/reviews" in path]


def test_a_busy_hub_is_asked_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.troubles = 3
    told = _read(hub, tmp_path, PUBLISHED, BRANCH, OLD_BRANCH)
    assert told == [["dull", "fun"], ["upheld", "overruled"], ["fair", "unfair"]]
    assert hub.troubles == 0
    downloads = [path for path in _asked(hub) if path.startswith("GET") and ".parquet" in path]
    assert len(downloads) == 3  # of the Parquet branch, the split asked for and no other


def test_a_configuration_that_vanished_is_one_sentence(hub: FakeHub, tmp_path: Path) -> None:
    for told in _read(hub, tmp_path, ("gone", False, REVISION), ("gone", True, REVISION)):
        assert "some/reviews (gone, train" in told
        assert "cannot be loaded" in told


def test_a_hub_that_stays_busy_is_asked_four_times_in_all(hub: FakeHub, tmp_path: Path) -> None:
    hub.troubles = 1_000
    first, second = _read(hub, tmp_path, PUBLISHED, BRANCH)
    assert len(_asked(hub)) == 4
    assert first == second
    assert "does not answer" in first
    assert "503" in first
    assert "SYMTUNE_MIRROR" in first


def test_a_hub_that_cannot_be_reached_is_one_sentence(hub: FakeHub, tmp_path: Path) -> None:
    (told,) = _read(hub, tmp_path, PUBLISHED, HF_ENDPOINT="http://127.0.0.1:9")
    assert "does not answer" in told
    assert "refused" in told


def test_a_revision_that_vanished_is_one_sentence_without_another_try(
    hub: FakeHub, tmp_path: Path
) -> None:
    gone, there = _read(hub, tmp_path, ("default", False, GONE), PUBLISHED)
    assert f"revision {GONE}) is not there (RevisionNotFoundError" in gone
    assert there == ["dull", "fun"]
    assert sum(GONE in path for path in _asked(hub)) == 1


def test_a_repository_that_vanished_is_one_sentence_without_another_try(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.repository = "another/name"
    (told,) = _read(hub, tmp_path, PUBLISHED)
    assert "is not there (RepositoryNotFoundError" in told
    assert len(_asked(hub)) == 1


def test_offline_only_cached_sets_load_and_nothing_is_asked(hub: FakeHub, tmp_path: Path) -> None:
    _read(hub, tmp_path, PUBLISHED, BRANCH)
    other = [(config, branch, GONE) for config, branch, _ in (PUBLISHED, BRANCH)]
    told = _read(hub, tmp_path, PUBLISHED, BRANCH, *other, HF_HUB_OFFLINE="1")
    assert told[:2] == [["dull", "fun"], ["upheld", "overruled"]]
    assert hub.paths == []
    for sentence in told[2:]:  # another revision is no substitute
        assert "HF_HUB_OFFLINE is set and the hub's cache lacks it" in sentence
        assert GONE in sentence


def test_offline_with_an_empty_cache_names_the_set(hub: FakeHub, tmp_path: Path) -> None:
    (told,) = _read(hub, tmp_path, PUBLISHED, HF_HUB_OFFLINE="1")
    assert "some/reviews (default, train" in told
    assert "HF_HUB_OFFLINE" in told


def test_a_set_with_a_licence_to_accept_says_so(hub: FakeHub, tmp_path: Path) -> None:
    says = "has a licence to accept (status 403); accept it on its page on the hub"
    hub.answers = {"some/reviews": (403, "GatedRepo")}
    for told in _read(hub, tmp_path, PUBLISHED, BRANCH):
        assert says in told
    # The real hub shows what is in the repository, and refuses the files.
    hub.answers = {"/resolve/": (403, "GatedRepo")}
    published, branch = _read(hub, tmp_path, PUBLISHED, BRANCH)
    assert says in branch
    assert "is a gated dataset on the Hub" in published  # in words of the library `datasets`


def test_a_full_disk_is_not_taken_for_a_missing_set(hub: FakeHub, tmp_path: Path) -> None:
    for told in _read(hub, tmp_path, PUBLISHED, BRANCH, MOST="400"):
        assert told.startswith("No set to leave out: Hub dataset some/reviews")
        assert f"cannot be kept in the hub's cache, {tmp_path}" in told
        assert "(File too large); make room" in told
