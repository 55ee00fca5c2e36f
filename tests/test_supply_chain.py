"""What is installed is what was chosen: every package has a version and checksums, everywhere the same."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
ENTRY = re.compile(r"^(\S.*?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked(name: str) -> dict[str, str]:
    """The packages of a lock file, with their versions and the systems that they are for."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    entries = [Requirement(entry[1]) for entry in ENTRY.finditer(text)]
    assert ENTRY.sub("", text).strip() == "", "a line without a checksum"
    return {canonicalize_name(e.name): f"{e.specifier} ; {e.marker}" for e in entries}


def declared(*extras: str) -> Iterator[Requirement]:
    """What the project asks for, with some extras and those that they ask for in turn."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][e] for e in extras)]
    for requirement in (Requirement(text) for each in lists for text in each):
        if requirement.name == PROJECT["name"]:
            yield from declared(*requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_of_a_lock_has_one_version_and_checksums(lock: str) -> None:
    versions = locked(lock.stem)  # type: ignore[attr-defined]
    assert versions
    assert not [v for v in versions.values() if not re.match(r"==[\w.+!]+ ;", v)]


@pytest.mark.parametrize("extra", ["dev", "deploy"])
def test_a_lock_has_all_that_the_project_asks_for_in_the_pinned_version(extra: str) -> None:
    found = locked(extra) | locked("gpu")
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {
        canonicalize_name(e.name): f"{e.specifier} ; {e.marker}"
        for e in map(Requirement, text.splitlines())
    }
    for requirement in declared(extra):
        version = found[canonicalize_name(requirement.name)].partition(" ;")[0]
        assert requirement.specifier.contains(version.removeprefix("==")), requirement
    others = {n: v for n, v in found.items() if pins[n].partition(" ;")[0] != v.partition(" ;")[0]}
    assert others == {}


def test_pytorch_for_cpus_needs_nothing_of_what_only_gpus_need() -> None:
    assert all(re.match("nvidia-|cuda-|triton$", name) for name in locked("gpu"))
    assert not set(locked("dev")) & set(locked("gpu"))
    assert locked("torch-cpu")["torch"] == locked("dev")["torch"].replace(" ;", "+cpu ;")


def test_setup_and_the_image_install_nothing_without_its_checksum() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rule = makefile.partition("\n.venv/installed:")[2].partition("\n\n")[0]
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    installs = [
        line for text in (rule, image) for line in text.splitlines() if "pip install" in line
    ]
    own = [line for line in installs if "-e ." in line]
    assert len(own) == 2
    assert all("--no-deps --no-build-isolation" in line for line in own)
    assert all("--require-hashes" in line for line in installs if line not in own)
    (locked_install,) = re.findall(r"^LOCKED := (.*)$", makefile, re.MULTILINE)
    assert "--require-hashes" in locked_install and rule.count("$(LOCKED) -r") == 4
