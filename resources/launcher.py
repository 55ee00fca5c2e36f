"""What starts a job, chosen by a file of `launchers/`. Neither knows the other."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from resources.pipes import run_here
from symtune_pipeline.environment import home_url
from symtune_pipeline.errors import UserError, first_fault
from symtune_pipeline.files import parse_yaml, read_settings
from symtune_pipeline.jobs.job import Job

ON_RAY = "symtune_pipeline.jobs.on_ray"
Positive = Annotated[int, Gt(0), Le(100_000)]
Count = Annotated[int, Ge(0), Le(100_000)]
WORD = re.compile(r"[\w.,:@+-]+")
PYTHON = re.compile(r"3\.(1[1-9]|[2-9]\d)")
DIRECTIVE = re.compile(r"[a-z]+(-[a-z]+)*")
# Options of sbatch with which a job could not be followed, or that the launcher sets.
RESERVED = frozenset(
    {
        "array",
        "help",
        "job-name",
        "no-requeue",
        "output",
        "parsable",
        "requeue",
        "test-only",
        "usage",
    }
    | {"cpus-per-task", "ntasks", "ntasks-per-node", "version", "wait", "wrap"}
)
LAUNCHERS = Path(__file__).resolve().parent.parent / "launchers"


class Launcher(BaseModel, ABC):
    """The settings of a launcher file, and how to run a job with them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def here(self) -> bool:
        """Whether jobs run on this machine."""
        return True

    @abstractmethod
    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """Run the job to its end, passing its lines on; returns the folder of its result.

        Raises UserError with the job's own sentence where a setting or the data is at fault, and
        JobLost where the job ended early.
        """


class LocalLauncher(Launcher):
    """A process on this machine, whose memory is free again when it ends."""

    kind: Literal["local"] = "local"

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher."""
        return run_here(context, job, job.package)


class TorchrunLauncher(Launcher):
    """Several ranks on this machine; `auto` is one per GPU, or per core where there is none."""

    kind: Literal["torchrun"] = "torchrun"
    processes: Positive | Literal["auto"] = "auto"

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher."""
        ranks = ("--nproc-per-node", str(self.processes))
        program = ("symtune_pipeline.jobs.on_torchrun", *ranks, "-m", job.package)
        return run_here(context, job, *program)


class RayLauncher(Launcher):
    """Ranks on a Ray cluster: one that runs elsewhere, or one on this machine for the job alone."""

    kind: Literal["ray"] = "ray"
    address: str | None = None  # of the cluster's dashboard, http://…
    workers: Positive = 1
    cpus_per_worker: Positive = 1
    gpus_per_worker: Count = 0
    max_failures: Count = 3

    @field_validator("address")
    @classmethod
    def _without_a_secret(cls, address: str | None) -> str | None:
        # It stands in logs, in the history of runs and in the UI.
        if address and any(sign in address for sign in "@?#"):
            raise ValueError(
                "holds a user, a password or a query; a token is read from RAY_AUTH_TOKEN alone"
            )
        return address

    @property
    def here(self) -> bool:
        """As of every launcher."""
        return self.address is None

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher."""
        if not (find_spec("ray") and find_spec("dagster_ray")):
            raise UserError(
                "The Ray launcher needs packages that are not installed; run"
                " `pip install 'symtune-pipeline[ray]'`, or unset SYMTUNE_LAUNCHER."
            )
        numbers = self.model_dump(exclude={"kind", "address"})
        options = [f"--{name.replace('_', '-')}={value}" for name, value in numbers.items()]
        if self.address is None:
            return run_here(context, job, ON_RAY, "--local", *options, "-m", job.package)
        from resources.ray_cluster import run_on_cluster

        return run_on_cluster(context, job, self.address, options)


class EcsLauncher(Launcher):
    """A task on Amazon ECS; what the job reads and makes goes through `staging`, an s3:// prefix."""

    kind: Literal["ecs"] = "ecs"
    staging: str | None = None  # without it, a folder in SYMTUNE_HOME, which is then on s3
    cluster: str
    task_definition: str
    container: str
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()

    @property
    def here(self) -> bool:
        """As of every launcher."""
        return False

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher."""
        from resources.ecs import run_on_ecs

        home = home_url()
        if self.staging is None and home is None:
            raise UserError(
                "The launcher of ECS passes jobs on through S3; set `staging` in its file, or SYMTUNE_HOME,"
                " to an s3:// prefix."
            )
        staging = self.staging or f"{home}/.jobs"
        task: dict[str, Any] = {"cluster": self.cluster, "taskDefinition": self.task_definition}
        if self.subnets:
            network = {"subnets": self.subnets, "securityGroups": self.security_groups}
            task["networkConfiguration"] = {"awsvpcConfiguration": network}
        return run_on_ecs(context, job, staging, self.container, task)


class SlurmLauncher(Launcher):
    """A job of a SLURM cluster that shares folders with this machine; one rank per GPU, or per node."""

    kind: Literal["slurm"] = "slurm"
    nodes: Positive = 1
    gpus_per_node: Count = 1
    cpus_per_node: Positive = 1
    partition: str | None = None
    account: str | None = None
    time: str | int | None = None  # as of sbatch: minutes, or a text such as 1-12:00:00
    directives: dict[
        str, str | int | bool
    ] = {}  # further options of sbatch; true is one without a value
    max_failures: Count = 3

    @property
    def here(self) -> bool:
        """As of every launcher."""
        return False

    @field_validator("partition", "account", "time")
    @classmethod
    def _is_word(cls, value: str | int | None) -> str | int | None:
        if value is not None and not WORD.fullmatch(str(value)):
            raise ValueError("is to be one word as sbatch takes it")
        return value

    @field_validator("directives")
    @classmethod
    def _are_directives(cls, directives: dict[str, str | int | bool]) -> dict[str, Any]:
        for name, value in directives.items():
            if not DIRECTIVE.fullmatch(name):
                raise ValueError(f"{name!r} is no option of sbatch, as mem-per-cpu is")
            if name in RESERVED or name.replace("-", "_") in cls.model_fields:
                raise ValueError(
                    f"{name!r} is set by the launcher, or is a setting beside directives"
                )
            if value is False or not str(value).isprintable():
                raise ValueError(
                    f"the value of {name!r} is to be a text of one line, a number or true"
                )
        return directives

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher."""
        from resources.slurm import Machines, run_on_slurm

        settings: dict[str, Any] = {
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self.cpus_per_node,
            "gpus-per-node": self.gpus_per_node or None,
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
        } | self.directives
        options = [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in settings.items()
            if value is not None
        ]
        machines = Machines(self.nodes, max(1, self.gpus_per_node), self.cpus_per_node, options)
        return run_on_slurm(context, job, machines, self.max_failures)


class FolderLauncher(Launcher):
    """A folder for a machine that no launcher reaches; somebody carries it there, and its result back."""

    kind: Literal["folder"] = "folder"
    folder: Path  # in which each job gets its own
    part_gb: Annotated[float, Gt(0), Le(1_000_000)] = 2  # of 10^9 bytes: larger files go in parts
    wheels: bool = True  # packages travel along, besides this library
    python: str | None = None  # of the other machine; without it, this one's
    machine: Literal["x86_64", "aarch64"] = "x86_64"
    has: tuple[str, ...] = ("torch",)  # packages of the other machine, which stay here

    @property
    def here(self) -> bool:
        """As of every launcher."""
        return False

    @field_validator("python", mode="before")
    @classmethod
    def _is_python(cls, value: object) -> str | None:
        if value is None or PYTHON.fullmatch(str(value)):
            return value if value is None else str(value)
        raise ValueError("is to be 3.11 or newer, as 3.12 is")

    def run(self, context: dg.AssetExecutionContext, job: Job) -> Path:
        """As of every launcher; without the result, raises UserError that says how to get it."""
        from resources.folder import Elsewhere, run_in_folder

        elsewhere = Elsewhere(
            part_bytes=max(1, round(self.part_gb * 10**9)),
            wheels=self.wheels,
            python=self.python or f"{sys.version_info.major}.{sys.version_info.minor}",
            machine=self.machine,
            has=self.has,
        )
        return run_in_folder(context, job, self.folder.expanduser().absolute(), elsewhere)


Kinds = Annotated[
    LocalLauncher | TorchrunLauncher | RayLauncher | EcsLauncher | SlurmLauncher | FolderLauncher,
    Field(discriminator="kind"),
]


def load_launcher(name: str) -> Launcher:
    """A launcher by its name in launchers/, or from a file of the user's own.

    Raises UserError where the file cannot be read or a setting is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else LAUNCHERS / f"{name}.yaml"
    try:
        text = read_settings(path)
    except (OSError, UnicodeError) as error:
        known = ", ".join(sorted(p.stem for p in LAUNCHERS.glob("*.yaml")))
        raise UserError(
            f"Launcher file {path} cannot be read ({error}); set SYMTUNE_LAUNCHER to one of {known}"
            " or to the path of your own file."
        ) from error
    settings = parse_yaml(text, f"Launcher file {path}")
    kinds = TypeAdapter[Launcher](Kinds)
    try:
        return kinds.validate_python(settings)
    except ValidationError as error:
        where, reason = first_fault(error, kinds.json_schema())
        raise UserError(
            f"Launcher file {path}, setting '{'.'.join(where[1:]) or 'kind'}': {reason}; launchers/ holds a"
            " file of each kind with its settings."
        ) from error
