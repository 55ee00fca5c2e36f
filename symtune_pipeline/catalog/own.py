"""A dataset of the user's own, as an experiment describes it.

A field's sentence is its docstring: docs/settings.md is made from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import ConfigDict, ValidationInfo, field_validator, model_validator

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.facts import Fact
from symtune_pipeline.tables import MOST_CLASSES, Role

OWN_SUFFIXES = (".csv", ".jsonl", ".parquet")


def label_as_text(label: str | int | float) -> str:
    """A label as it is compared: true and false in small letters, since files write them in any."""
    text = str(label)
    return text.lower() if text.lower() in ("true", "false") else text


class OwnDataset(Fact):
    """A set of the user's own: its files, and what the catalogue says about the public ones."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    role: Role
    """What the set is for; no set is for both."""
    files: Annotated[dict[Literal["train", "test"], Path], MinLen(1)]
    """CSV, JSONL or Parquet files by split, relative to the experiment file; tuning uses `train`."""
    columns: Annotated[tuple[str, ...], MinLen(1)]
    """The columns that the input of a prompt is made of."""
    label_column: str
    """The column that holds the label."""
    labels: Annotated[dict[str, str], MinLen(2)]
    """What stands in the data to the natural label, compared as text; a list where they are the same."""
    instruction: str
    """What a prompt with an instruction says before its exemplars."""
    id_column: str | None = None
    """The column that tells rows apart; none: their numbers do."""
    input: str | None = None
    """The input as text with every column in braces, once; none: the columns with ` | ` between them."""
    task_type: str = "own"
    """The kind of task, for tables and reports."""
    licence: str = "own data"
    """The licence of the data, for tables and cards."""
    citation: str = "own data"
    """Whom to cite, for tables and cards."""

    @field_validator("files")
    @classmethod
    def _readable(cls, files: dict[str, Path], info: ValidationInfo) -> dict[str, Path]:
        for path in files.values():
            if path.suffix not in OWN_SUFFIXES:
                raise ValueError(f"{path} must end with one of {', '.join(OWN_SUFFIXES)}")
        if info.data.get("role") == "tuning" and "train" not in files:
            raise ValueError("a set for tuning needs a file called train")
        # Relative to the experiment file, wherever the pipeline is started.
        folder = (info.context or {}).get("folder", Path())
        return {split: folder / path for split, path in files.items()}

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
        return Dataset(key=key, input=self.template, hidden_label=None, **facts)
