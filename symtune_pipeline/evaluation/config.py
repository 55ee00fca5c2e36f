"""The evaluation job's configuration: one JSON file, so that any launcher can start it anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt
from pydantic import AfterValidator, BaseModel, ConfigDict

from symtune_pipeline.files import content_hash, name_fault
from symtune_pipeline.jobs.job import Job
from symtune_pipeline.sections import Finetuned
from symtune_pipeline.tables import Protocol, Suite


def _file_name(name: str) -> str:
    if fault := name_fault(name):
        raise ValueError(f"it names a file, and {fault}")
    return name


class Weights(BaseModel):
    """A model's folder, and the version of what is in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    version: str


class Endpoint(BaseModel):
    """A served model: the address, its name there, and a folder with its tokenizer and configuration.

    `version` stands for the model and the tokenizer. The key, which a server may ask for, is not here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    model: str
    protocol: Protocol
    tokenizer: Path
    version: str


class JobConfig(Job):
    """Everything that the job needs; `made_from` are the versions of the suite, its inputs and the code.

    The result is a table `<variant>.parquet` for each variant, as `predictions` describes them.
    """

    package: ClassVar[str] = "symtune_pipeline.evaluation"
    name: ClassVar[str] = "evaluation job"
    goes_on: ClassVar[str] = "goes on where it was"
    result: ClassVar[str] = "predictions"

    suite: Suite
    queries: Path  # the suite's table
    benchmarks: tuple[str, ...]  # those that are asked; none: the whole suite
    inputs: Path | None = None  # the table of examples that a suite refers to
    variants: dict[Annotated[str, AfterValidator(_file_name)], Weights | Endpoint]
    made_from: dict[str, str]
    precision: Literal["auto", "fp32", "bf16"]
    chat_template: bool
    channel: bool = False  # whether inputs are scored after labels, too
    finetuned: Finetuned = Finetuned()  # how a model is tuned on the exemplars, where it is
    ranks_per_model: Annotated[int, Gt(0)] | Literal["auto"] = "auto"

    def fingerprint(self) -> str:
        """Equal for jobs that ask the same models the same in the same way."""
        settings = self.model_dump(
            mode="json",
            include={
                "suite",
                "benchmarks",
                "made_from",
                "precision",
                "chat_template",
                "channel",
                "finetuned",
                "ranks_per_model",
            },
        )
        versions = {name: weights.version for name, weights in self.variants.items()}
        return content_hash([settings, versions])[:16]
