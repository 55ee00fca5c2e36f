"""What a launcher knows of a job: the program that runs it, its file and its folder.

A job is a package of this library: `config.JobConfig` is its file, a `Job`, and `job.run_job` does the
work. `python -m <package> --config job.json` runs it, alone, or once a rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

Say = Callable[[str], None]
RANK_DIED = (
    75  # with which a launcher of ranks ends where one has died, and it has ended the others
)


class Job(BaseModel, ABC):
    """The file of a job; which of its paths are relative is a matter of where it lies.

    The result is the folder `result` in the output folder, in which the job also keeps what is
    unfinished. `checkpoint_url` is an s3:// prefix that keeps that, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: ClassVar[str]
    name: ClassVar[str]  # in sentences
    goes_on: ClassVar[str]  # what a lost job does when it is started again
    result: ClassVar[str]

    output_folder: Path
    checkpoint_url: str | None = None

    @property
    def result_folder(self) -> Path:
        """Where the result is when the job has ended well."""
        return self.output_folder / self.result

    @abstractmethod
    def fingerprint(self) -> str:
        """Equal for jobs that have the same result."""

    def moved(self, move: Callable[[Path], Path]) -> Self:
        """The job with each of its paths replaced by what `move` makes of it."""
        return self.model_validate(_moved(self.model_dump(), move))


def _moved(value: Any, move: Callable[[Path], Path]) -> Any:
    if isinstance(value, dict):
        return {name: _moved(inner, move) for name, inner in value.items()}
    return move(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Program:
    """The package of a job, whose modules are imported when they are needed: it takes seconds."""

    package: str

    @property
    def config(self) -> type[Job]:
        """What its job files hold."""
        config: type[Job] = import_module(f"{self.package}.config").JobConfig
        return config

    @property
    def interrupted(self) -> str:
        """The sentence with which it ends when somebody stops it."""
        return str(import_module(self.package).INTERRUPTED)

    def run(self, config: Job, say: Say) -> Path:
        """Do the work; returns the folder of the result."""
        result: Path = import_module(f"{self.package}.job").run_job(config, say)
        return result
