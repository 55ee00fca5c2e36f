"""`symtune doctor`: checks packages, disk, memory, GPU, launcher and hub access before a run needs them.

It changes nothing. Its estimates of memory and disk are rough: they are those of tuning all weights in
fp32. `symtune plan` computes them.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import psutil
import typer

from symtune_pipeline.catalog.gpus import GB
from symtune_pipeline.catalog.models import Model, find_model
from symtune_pipeline.commands.common import current_experiment
from symtune_pipeline.commands.run import CHECKOUT
from symtune_pipeline.environment import (
    home_folder,
    home_url,
    home_variable,
    launcher_name,
    mirror_folder,
)
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment, lora_of
from symtune_pipeline.store.bucket import Bucket

PROJECT = "symtune-pipeline"
NAMED = ("dagster", "torch", "transformers", "polars", "duckdb")  # of many packages
# Bytes a weight, of four each: weight, gradient and two moments; and on disk the model before and
# after tuning, and two checkpoints of weight and moments.
MEMORY, DISK = 16, 32
OTHER_GB = 1.5  # programs in memory, tables on disk
LAUNCHER = "resources.launcher_kind"  # a program of its own: the graph is none of the library's
DRIVER = Path("/proc/driver/nvidia")
OTHER_TORCH = (
    "run `.venv/bin/pip uninstall --yes torch`, then `.venv/bin/pip install --no-deps --require-hashes"
    " -r requirements/dev.lock -r requirements/gpu.lock`"
)


def doctor() -> None:
    """Check packages, disk, memory, GPU, launcher and hub access.

    For each problem, print what to do. The exit code is 1 if there is a problem.

    Example: symtune doctor
    """
    problems = 0
    for finding in findings():
        typer.echo(finding)
        problems += finding.remedy is not None
    if problems:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it; nothing where all is well."""

    name: str
    found: str
    remedy: str | None = None

    def __str__(self) -> str:
        """A line to print."""
        state = "problem" if self.remedy else "ok"
        return f"{state:<8} {self.name}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")


def findings() -> Iterator[Finding]:
    """Look at everything for the current experiment, one thing after another."""
    yield from (python(), packages(), gpu())
    try:
        experiment = current_experiment()
    except UserError as error:
        yield Finding("experiment", str(error).rstrip("."), "nothing else was checked")
        return
    models = [find_model(key) for key in experiment.models]
    yield Finding("experiment", f"{experiment.name}, with {', '.join(experiment.models)}")
    yield home()
    yield disk(models)
    started = launcher()
    yield started
    # The plan of adapters is another one, and the memory of other machines is not seen from here.
    whole = [model for model in models if lora_of(experiment.tuning, model) is None]
    if whole and started.here:
        yield memory(whole, started.kind)
    for model in models:
        yield weights(model)
        if experiment.evaluation.pretrained:
            yield parent_weights(model)
    yield data(experiment)


def python() -> Finding:
    """The interpreter, whose version pip has checked."""
    return Finding("python", f"{platform.python_version()} on {platform.platform(terse=True)}")


def packages() -> Finding:
    """Every package that the project declares, in a version that it takes."""
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("packages", f"{PROJECT} is not installed", "run `make setup`")
    wrong, needed = [], [Requirement(text) for text in declared]
    needed = [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    for each in needed:
        version = _installed(each.name)
        if version is None or not each.specifier.contains(version, prereleases=True):
            wrong.append(f"{each} ({version or 'missing'})")
    if wrong:
        return Finding("packages", f"not as declared: {', '.join(wrong)}", "run `make setup`")
    named = ", ".join(f"{name} {_installed(name)}" for name in NAMED)
    return Finding("packages", f"{len(needed)} as declared, including {named}")


def gpu() -> Finding:
    """The GPUs that torch can use; none is no problem, only slow, unless torch alone is why."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if (
        not names
        and "+cpu" in torch.__version__
        and (shutil.which("nvidia-smi") or DRIVER.exists())
    ):
        found = f"there is an NVIDIA driver, but `make setup` has taken torch {torch.__version__}"
        return Finding("gpu", f"{found}, which is for CPUs alone", OTHER_TORCH)
    return Finding("gpu", ", ".join(names) or "torch finds none, so the CPU is used")


def home() -> Finding:
    """Whether the folder of everything can be written; a bucket is only listed."""
    url = home_url()
    if url:
        try:
            count = len(Bucket(url).keys())
        except UserError as error:
            return Finding("home", str(error).rstrip("."), "see docs/deployment.md")
        return Finding("home", f"{url} can be read and contains {count:,} files")
    folder = home_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(b"symtune")
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(
            "home",
            f"{folder} cannot be written ({reason})",
            "set SYMTUNE_HOME to a folder that can be written",
        )
    return Finding("home", f"{folder} can be written")


def disk(models: list[Model]) -> Finding:
    """The space under the home, against what the largest model will leave there."""
    folder = next(path for path in (home_folder(), *home_folder().parents) if path.exists())
    remedy = f"free space, or set {home_variable()} to a folder on a larger disk"
    return _enough("disk", shutil.disk_usage(folder).free, "free", models, DISK, remedy)


@dataclass(frozen=True)
class Launcher(Finding):
    """What starts jobs: its kind, and whether they run on this machine."""

    kind: str = "local"
    here: bool = True


def launcher() -> Launcher:
    """The launcher's file, and what kind it is of; a problem where it cannot be read."""
    if not (CHECKOUT / "resources").is_dir():
        return Launcher("launcher", "this installation has the commands without the graph")
    name = launcher_name()
    if name.endswith((".yaml", ".yml")):
        name = str(Path(name).absolute())
    program = [sys.executable, "-m", LAUNCHER, name]
    ended = subprocess.run(program, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if ended.returncode:
        problem = _problem("launcher", UserError((ended.stderr.splitlines() or ["no answer"])[-1]))
        return Launcher(problem.name, problem.found, problem.remedy, here=False)
    kind, where = ended.stdout.split()
    return Launcher("launcher", f"{kind}, from {name}", None, kind, where == "here")


def memory(models: list[Model], launcher: str = "local") -> Finding:
    """The memory that tuning uses, of GPUs or of the machine, against what the largest model needs."""
    import torch

    count = torch.cuda.device_count()
    used = min(count, 1) if launcher == "local" else count  # one process has one of them
    sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(used)]
    where = "on the GPU" if used == 1 else f"on {used} GPUs"
    remedy = "choose a smaller model, or run `symtune plan` to see what it needs"
    if used < count:
        remedy = (
            f"set SYMTUNE_LAUNCHER=torchrun, which uses all {count} GPUs, or run `symtune plan`"
        )
    if not sizes:
        sizes, where = [psutil.virtual_memory().total], "in this machine"
    return _enough("memory", sum(sizes), where, models, MEMORY, remedy)


def weights(model: Model) -> Finding:
    """Where the weights of a model will come from; the hub is asked whether it gives them."""
    from symtune_pipeline.models.weights import NothingAnswers, look_up, packaged_files

    name = f"weights of {model.key}"
    if model.base is None:
        return Finding(name, "made here")
    try:
        try:
            place = look_up(model, *model.base)
        except NothingAnswers:
            if model.package is None:
                raise
            packaged_files(model.package)
            quantised = f"{model.base.repository}, quantised, from package {model.package}"
            return Finding(name, f"{quantised}; the hub cannot be reached")
    except UserError as error:
        return _problem(name, error)
    return Finding(name, f"{model.base.repository}, from {place}")


def parent_weights(model: Model) -> Finding:
    """Where the weights of a model's pretrained parent will come from: the hub or its cache."""
    from symtune_pipeline.models.weights import look_up

    name = f"weights of {model.key}'s parent"
    if model.parent is None:
        return Finding(name, "the catalogue has none")
    try:
        place = look_up(model, *model.parent)
    except UserError as error:
        return _problem(name, error)
    return Finding(name, f"{model.parent.repository}, from {place}")


def data(experiment: Experiment) -> Finding:
    """Whether the files behind the datasets are there."""
    from huggingface_hub import constants

    from symtune_pipeline.sources.hub_client import hub_answers
    from symtune_pipeline.sources.load import files_version, public_source

    sets, mirror = experiment.datasets(), mirror_folder()
    public = [entry for entry in sets if entry.hub]
    offline = constants.is_offline_mode()
    if public and not mirror and not offline and not hub_answers():
        return Finding(
            "data",
            f"the hub cannot be reached, for {len(public)} public datasets",
            "connect, set SYMTUNE_MIRROR, or set HF_HUB_OFFLINE=1 if its cache contains them",
        )
    try:
        source = public_source(mirror)
        missing = [entry.key for entry in sets if None in files_version(entry, source)]
    except UserError as error:
        return _problem("data", error)
    if missing and experiment.data.missing == "error":
        return Finding(
            "data",
            f"of {len(sets)} datasets, these lack files: {', '.join(missing)}",
            "add the files, or set data.missing to leave_out",
        )
    hub = "the hub's cache, because HF_HUB_OFFLINE is set" if offline else "the hub"
    where = f"{len(public)} from {mirror or hub}" if public else "all on this machine"
    without = f", without {len(missing)} that are missing" if missing else ""
    return Finding("data", f"{len(sets)} datasets, {where}{without}")


def _problem(name: str, error: UserError) -> Finding:
    """A user error's sentence as what was found and what to do."""
    found, _, remedy = str(error).rstrip(".").partition("; ")
    return Finding(name, found, remedy)


def _enough(
    name: str, size: float, where: str, models: list[Model], bytes_each: int, remedy: str
) -> Finding:
    largest = max(models, key=lambda model: model.parameters)
    needed = bytes_each * largest.parameters / GB + OTHER_GB
    found = f"{size / GB:,.0f} GB {where}; tuning {largest.key} takes about {needed:,.0f} GB"
    return Finding(name, found, remedy if size < needed * GB else None)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
