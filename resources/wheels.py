"""Wheels for a machine without network: this library as one, and the packages that a job imports."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.interrupts import unbroken
from symtune_pipeline.experiment import LIBRARY

CHECKOUT = LIBRARY.parent
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", LIBRARY.name, "experiments")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
# What starts a job there; the job itself is `<package>.job`.
STARTED = ("symtune_pipeline.jobs.in_folder", "symtune_pipeline.jobs.on_torchrun")
NEVER = {"boto3", "botocore"}  # without network there is no bucket
OF_GPUS = ("nvidia-", "cuda-", "triton")
NEWEST_GLIBC = 28  # 2.28: what the systems of today's GPU machines have at least


def build_code(folder: Path) -> None:
    """Put this library as a wheel into a folder; the checkout stays as it is.

    Raises UserError where it cannot be built.
    """
    if find_spec("setuptools") is None:
        raise UserError("The folder launcher builds a wheel; run `pip install setuptools` for it.")
    with TemporaryDirectory(prefix="symtune-wheel-") as name:
        copy = Path(name)
        for source in SOURCES:
            if (CHECKOUT / source).is_dir():
                without = shutil.ignore_patterns("__pycache__")
                shutil.copytree(CHECKOUT / source, copy / source, ignore=without)
            else:
                shutil.copyfile(CHECKOUT / source, copy / source)
        built = _python("-c", BUILD, str(folder.absolute()), cwd=copy)
    if built.returncode:
        raise UserError(
            f"The wheel of {CHECKOUT} cannot be built ({_reason(built)}); see that it is a whole checkout"
            " and setuptools is new enough for its pyproject.toml."
        )


def needed(package: str, python: str, machine: str, has: Collection[str]) -> dict[str, str]:
    """What a job's package needs at work: names of distributions, with the versions of them here.

    That is what its modules import, wherever in them, and what that requires in turn on Linux, with a
    version of Python and a kind of machine; but nothing that only those in `has`
    require, whose names are canonical.
    """
    system = {
        "python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine,
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix",
    }  # fmt: skip
    pins, providers = _pins(system), packages_distributions()
    waiting = [(providers[name][0], "") for name in _imported(package) if name in providers]
    seen: set[tuple[str, str]] = set()
    found: dict[str, str] = {}
    while waiting:
        name, extra = waiting.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen or name in NEVER:
            continue
        seen.add((name, extra))
        try:
            found[name] = Version(version(name)).public
        except PackageNotFoundError:  # what another Python or machine requires
            found |= {name: pins[name]} if name in pins else {}
            continue
        if name in has:
            continue
        if name == "torch":  # of which there may be one for CPUs here, that requires none of these
            found |= {each: pin for each, pin in pins.items() if each.startswith(OF_GPUS)}
        for each in map(Requirement, requires(name) or ()):
            if each.marker is None or each.marker.evaluate({**system, "extra": extra}):
                waiting += [(each.name, more) for more in ("", *each.extras)]
    return dict(sorted(found.items()))


def download(wanted: Mapping[str, str], folder: Path, python: str, machine: str) -> None:
    """Put the wheels of some distributions, by name and version, into a folder.

    They are for CPython on Linux. Raises UserError where the package index has one of them not.
    """
    glibc = [f"manylinux_2_{number}" for number in range(NEWEST_GLIBC, 4, -1)]
    kinds = [
        f"{name}_{machine}" for name in (*glibc, "manylinux2014", "manylinux2010", "manylinux1")
    ]
    platforms = [word for kind in (*kinds, "any") for word in ("--platform", kind)]
    got = _python(
        "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms,
        "-d", str(folder), *(f"{name}=={number}" for name, number in wanted.items()),
    )  # fmt: skip
    if got.returncode:
        raise UserError(
            f"Wheels for Python {python} on {machine} cannot be downloaded ({_reason(got)}); correct python"
            " and machine in the launcher file, name what the machine has under has, or set wheels: false."
        )


def _imported(package: str) -> set[str]:
    """The packages from elsewhere that a job's modules import, directly or not."""
    import grimp

    with unbroken():  # grimp panics where a signal breaks it off
        graph = grimp.build_graph(
            LIBRARY.name,
            cache_dir=None,
            exclude_type_checking_imports=True,
            include_external_packages=True,
        )
    job = f"{package}.job"
    spec = find_spec(job)
    assert spec and spec.origin
    # A job may name modules that it imports only when it knows which.
    texts = ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    named = graph.modules.intersection(
        node.value for node in texts if isinstance(node, ast.Constant)
    )
    entries = {job, f"{package}.config", f"{package}.__main__", *STARTED, *named}
    modules = entries.union(*map(graph.find_upstream_modules, entries))
    return {name for name in modules if not name.startswith(LIBRARY.name)}


def _pins(system: Mapping[str, str]) -> dict[str, str]:
    """The versions in the checkout's constraints that count on a system."""
    path = CHECKOUT / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {
        canonicalize_name(each.name): next(iter(each.specifier)).version
        for each in map(Requirement, filter(None, lines))
        if each.marker is None or each.marker.evaluate(dict(system))
    }


def _python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, start_new_session=True
    )


def _reason(ended: subprocess.CompletedProcess[str]) -> str:
    """What a program says at its end, in one line."""
    lines = (
        ended.stderr.strip() or ended.stdout.strip() or f"code {ended.returncode}"
    ).splitlines()
    return lines[-1].removeprefix("ERROR: ").rstrip(".")
