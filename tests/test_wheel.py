"""Installed from a wheel, `symtune` needs no checkout: it has its data, its experiments and a home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "symtune_pipeline", "experiments")
SDIST = "from setuptools import build_meta; print(build_meta.build_sdist('.'))"


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command prints on its way to success, without a trace of the checkout around it."""
    ours = ("SYMTUNE_", "PYTHON", "XDG_", "COLUMNS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    ended = subprocess.run(
        command, cwd=cwd, env=env | variables, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in, which leaves no trace in ours."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            without = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=without)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist")
    run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=checkout)
    (built,) = (checkout / "dist").glob("*.whl")
    return built


def environment(folder: Path) -> Path:
    """An empty one, which sees the packages of ours and not the checkout that ours leads to."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    # Of a folder that such a line names, no .pth file is read: no editable install counts.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def shipped(names: list[str]) -> set[str]:
    """The files of the library and the experiments among those of an archive."""
    tops = ("symtune_pipeline/", "experiments/")
    return {name for name in names if name.startswith(tops) and not name.endswith("/")}


def test_the_wheel_and_the_sdist_hold_every_file_of_the_library(
    checkout: Path, wheel: Path
) -> None:
    library = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "symtune_pipeline").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    experiments = {
        str(path.relative_to(ROOT)) for path in (ROOT / "experiments").rglob("*") if path.is_file()
    }
    assert {Path(name).suffix for name in library} == {".py", ".yaml", ".html", ".js", ".md"}
    with ZipFile(wheel) as archive:
        inside = {f"symtune_pipeline/{name}" for name in experiments}
        assert shipped(archive.namelist()) == library | inside
    sdist = checkout / run(sys.executable, "-c", SDIST, cwd=checkout).split()[-1]
    with tarfile.open(sdist) as archive:
        names = [
            member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()
        ]
    assert shipped(names) == library | experiments
    assert "setup.py" in names


def test_installed_from_a_wheel_it_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "environment")
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install")
    run(*pip, *options, wheel, cwd=tmp_path)
    empty, home = tmp_path / "empty", tmp_path / "home"
    empty.mkdir()
    variables = {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "COLUMNS": "200"}

    def symtune(*arguments: str) -> str:
        return run(programs / "symtune", *arguments, cwd=empty, **variables)

    assert "doctor" in symtune("--help")
    assert "h100" in symtune("plan", "--model", "smollm2-135m", "--gpu", "h100")
    assert "HuggingFaceTB/SmolLM2-135M" in symtune("show", "model", "smollm2-135m")
    assert "rte" in symtune("--experiment", "paper", "show", "dataset", "rte")
    assert not list(empty.iterdir())

    asked = "from symtune_pipeline import environment as e; print(e.__file__, e.home_folder())"
    file, folder = run(programs / "python", "-c", asked, cwd=empty, **variables).split()
    assert Path(file).is_relative_to(tmp_path / "environment")
    assert Path(folder) == home / "data" / "symtune"


def test_a_checkout_that_is_installed_to_be_edited_stays_as_it_is(
    checkout: Path, tmp_path: Path
) -> None:
    programs = environment(tmp_path / "environment")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--editable")
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install")
    run(*pip, *options, checkout, cwd=tmp_path, **{"HOME": str(tmp_path)})
    asked = (
        "from symtune_pipeline.environment import home_folder;"
        "from symtune_pipeline.experiment import EXPERIMENTS; print(EXPERIMENTS, home_folder())"
    )
    folders = run(programs / "python", "-c", asked, cwd=tmp_path).split()
    assert folders == [str(checkout / "experiments"), str(checkout / ".symtune")]
