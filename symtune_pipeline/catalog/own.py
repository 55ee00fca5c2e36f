"""A dataset of the user's own, as an experiment describes it.

A field's sentence is its docstring: docs/settings.md is made from them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.facts import Fact, LocalPath
from symtune_pipeline.tables import MOST_CLASSES, Role

OWN_SUFFIXES = (".csv", ".jsonl", ".parquet", ".tsv")
COMMIT = re.compile(r"[0-9a-f]{40}")


def label_as_text(label: str | int | float) -> str:
    """A label as it is compared: true and false in small letters, since files write them in any."""
    text = str(label)
    return text.lower() if text.lower() in ("true", "false") else text


Split = Literal["train", "test"]
Name = Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")]  # of a file or folder of a mirror


class OwnLocation(Fact):
    """A dataset on the hub, or `<repository>/<config>/<split>.parquet` in the mirror of SYMTUNE_MIRROR."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    repository: Annotated[str, Field(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$")]
    """The repository as the hub calls it, `<owner>/<name>`."""
    config: Name = "default"
    """The configuration of the repository."""
    splits: Annotated[dict[Split, Name], MinLen(1)]
    """What the hub calls each split; tuning uses `train`."""
    revision: str
    """The commit, 40 hexadecimal digits, so that the data stay what they are."""
    parquet_branch: bool = False
    """The commit is one of the hub's own branch `refs/convert/parquet`."""

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str) -> str:
        if not COMMIT.fullmatch(revision):
            raise ValueError(
                f"'{revision}' is no commit, which has 40 hexadecimal digits; copy one from the history"
                " of the repository's files"
            )
        return revision


class OwnDataset(Fact):
    """A dataset of the user's own: where it lies, and what the catalogue says about the public ones."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    role: Role
    """What the dataset is for; no dataset is for both."""
    files: Annotated[dict[Split, LocalPath], MinLen(1)] | None = None
    """CSV, TSV, JSONL or Parquet files by split, relative to the experiment file; tuning uses `train`."""
    hub: OwnLocation | None = None
    """Where the dataset lies on the hub, in place of files."""
    columns: Annotated[tuple[str, ...], MinLen(1)]
    """The columns that the input of a prompt is made of."""
    label_column: str
    """The column that holds the label."""
    labels: Annotated[dict[str, str], MinLen(2)]
    """Each value in the data with its natural label, compared as text; a list where they are the same."""
    unlabelled: tuple[str | None, ...] = ()
    """Values in the label column that mean 'no label', such as -1; such rows are left out and counted."""
    instruction: str
    """What a prompt with an instruction says before its exemplars."""
    id_column: Annotated[str, MinLen(1)] | None = None
    """The column with a unique id of each row. Not set: the number of the row is its id."""
    input: str | None = None
    """The input as text, with every column in braces once. Not set: the columns with ` | ` between them."""
    task_type: str = "own"
    """The kind of task, for tables and reports."""
    licence: str = "own data"
    """The licence of the data, for tables and cards."""
    citation: str = "own data"
    """Whom to cite, for tables and cards."""

    @field_validator("files")
    @classmethod
    def _readable(
        cls, files: dict[str, Path] | None, info: ValidationInfo
    ) -> dict[str, Path] | None:
        if files is None:
            return None
        for path in files.values():
            if path.suffix not in OWN_SUFFIXES:
                raise ValueError(f"{path} must end with one of {', '.join(OWN_SUFFIXES)}")
        if info.data.get("role") == "tuning" and "train" not in files:
            raise ValueError("a set for tuning needs a file called train")
        # Relative to the experiment file, wherever the pipeline is started.
        folder = (info.context or {}).get("folder", Path())
        return {split: folder / path for split, path in files.items()}

    @field_validator("hub")
    @classmethod
    def _for_its_role(cls, hub: OwnLocation | None, info: ValidationInfo) -> OwnLocation | None:
        if hub and info.data.get("role") == "tuning" and "train" not in hub.splits:
            raise ValueError("a set for tuning needs a split called train")
        return hub

    @field_validator("unlabelled", mode="before")
    @classmethod
    def _signs_as_text(cls, signs: Any) -> Any:
        if not isinstance(signs, list):
            return signs  # pydantic says what is wrong
        return [label_as_text(s) if isinstance(s, str | int | float) else s for s in signs]

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, labels: Any) -> Any:
        if isinstance(labels, list):
            pairs = [(label, label) for label in labels]
        elif isinstance(labels, dict):
            pairs = list(labels.items())
        else:
            return labels  # pydantic says what is wrong
        texts: dict[str, Any] = {}
        for label, natural in pairs:
            if not isinstance(label, str | int | float):
                raise ValueError(f"{label!r} is no text or number; write labels in quotes")
            text = label_as_text(label)
            if texts.get(text, natural) != natural:
                raise ValueError(f"'{text}' is named twice")
            texts[text] = natural
        return texts

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: dict[str, str]) -> dict[str, str]:
        if len(labels) > MOST_CLASSES:
            raise ValueError(
                f"{len(labels):,} classes are above {MOST_CLASSES:,}, the most of a set"
            )
        if len(set(labels.values())) < len(labels):
            raise ValueError("every label needs a natural label of its own")
        return labels

    @model_validator(mode="after")
    def _lies_in_one_place(self) -> OwnDataset:
        if (self.files is None) == (self.hub is None):
            raise ValueError("name either files or hub")
        return self

    @model_validator(mode="after")
    def _unlabelled_is_no_label(self) -> OwnDataset:
        both = [sign for sign in self.unlabelled if sign in self.labels]
        if both:
            raise ValueError(f"'{both[0]}' is in labels and in unlabelled")
        return self

    @model_validator(mode="after")
    def _label_is_no_input(self) -> OwnDataset:
        if self.label_column in self.columns:
            raise ValueError(
                f"the input would show the label, since columns has {self.label_column}"
            )
        return self

    @model_validator(mode="after")
    def _input_shows_every_column(self) -> OwnDataset:
        for column in self.columns:
            if self.template.count(f"{{{column}}}") != 1:
                raise ValueError(f"input must show {{{column}}} once")
        return self

    @property
    def template(self) -> str:
        """How the columns become one text."""
        return self.input or " | ".join(f"{{{column}}}" for column in self.columns)

    def entry(self, key: str) -> Dataset:
        """The set as the catalogue would describe it."""
        facts = self.model_dump(exclude={"input"})
        return Dataset(key=key, input=self.template, **facts)
