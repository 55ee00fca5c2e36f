"""`symtune init`: writes an experiment for a file of the user's own, after a look at it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import polars as pl
import typer
import yaml

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.catalog.models import find_model
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import load_experiment
from symtune_pipeline.sources.load import load_examples, public_source
from symtune_pipeline.sources.looked import (
    Column,
    column,
    likely_id,
    likely_label,
    likely_texts,
    look_at,
    words_for,
)
from symtune_pipeline.tables import Role

CHARACTERS = 3  # of a token, at least, in most languages
FRAME = 20  # characters that a format adds to an example
EXEMPLARS = 4  # of a class in a prompt of the evaluation, where there are enough
BLOCK = 512  # tokens
TEMPLATE = """\
# An experiment on {file}, written by `symtune init`. Run it:
#     symtune run --experiment {here}
# What is left out has its default; docs/settings.md describes every setting, docs/own-data.md your data.

models: [{model}]    # others: docs/models.md

data:
  source: generated    # the sets to tune on beside yours; hub: public sets
  own:
    {key}:
      role: {role}    # evaluation: how well models read your task; tuning: models are tuned on it
      files: {{train: {path}}}    # a second file may be named as test
      columns: [{texts}]    # the input of a prompt; the file also has: {others}
      label_column: {label}
      labels:    # what stands in the file: the word that a prompt says for it
{labels}
      instruction: {instruction}
{more}
# A small budget for tuning, as in the quickstart.
mixture: {{prompts: 200, exemplars_per_class: [2, 6], held_out_prompts: 16{characters}}}
tuning: {{block_tokens: {block}}}
# Ten draws of exemplars give intervals. The default of 2 gives none, and asks a fifth of the queries.
evaluation: {{exemplars_per_class: {exemplars}, contexts: 10, algorithmic_shots: 4}}
"""


@dataclass(frozen=True)
class Described:
    """What is known of a file: its columns, which are the input, which the label, and its words."""

    columns: Sequence[Column]
    texts: Sequence[Column]
    label: Column
    words: Mapping[str, str]


def init(
    path: Annotated[Path, typer.Argument(help="The experiment to write, such as mine.yaml.")],
    data: Annotated[Path, typer.Option(help="Your CSV, TSV, JSONL or Parquet file.")],
    text: Annotated[
        list[str] | None, typer.Option(help="A column of the input; may be repeated.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The column with the label.")] = None,
    role: Annotated[
        Role, typer.Option(help="Evaluate models on the file, or tune them on it.")
    ] = "evaluation",
    model: Annotated[str, typer.Option(help="A model of the catalogue.")] = "smollm2-135m",
) -> None:
    """Write an experiment for your own file.

    The columns of the input and the label are guessed from the file. On a terminal you are asked
    whether the guess is right. Everything can be changed in the experiment later.

    Example: symtune init mine.yaml --data reviews.csv
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path} must end with .yaml, as every experiment; choose another name.")
    if path.exists():
        raise UserError(f"{path} is there already; choose another name, or remove it first.")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder; make it first, or choose another one.")
    found = _describe(data, look_at(data), text or [], label)
    written = _experiment(path, data, found, role, model)
    counts = _kept(path, written)
    shown = ", ".join(f"{name} ({rows:,})" for name, rows in counts)
    typer.echo(f"{path}: {sum(rows for _, rows in counts):,} examples of {data}")
    typer.echo(f"  input: {', '.join(each.name for each in found.texts)}")
    typer.echo(f"  label: {found.label.name}, as {shown}")
    typer.echo("Correct the words for the labels and the instruction in the file if need be. Then:")
    typer.echo(f"  symtune run --experiment {quote(str(path))}")


def _describe(
    path: Path, columns: Sequence[Column], texts: Sequence[str], label: str | None
) -> Described:
    """What the options say of the columns, then what the user answers, else what is likely."""
    names = ", ".join(each.name for each in columns)
    guess = column(columns, label, path) if label else likely_label(columns)
    asked = sys.stdin.isatty() and sys.stdout.isatty()
    if asked and not label:
        typer.echo(f"{path} has the columns {names}.")
        answer = typer.prompt("Which column has the label?", default=guess and guess.name)
        guess = column(columns, answer, path)
    if guess is None:
        raise UserError(
            f"No column of {path} has a few values that come again, as labels do; name one of {names}"
            " with --label."
        )
    input_ = [column(columns, name, path) for name in texts] or likely_texts(columns, guess)
    if asked and not texts:
        likely = ",".join(each.name for each in input_)
        answer = typer.prompt("Which columns are the input? (with commas between)", default=likely)
        input_ = [column(columns, name.strip(), path) for name in answer.split(",")]
    if not input_:
        raise UserError(f"No column of {path} but the label has text; name one with --text.")
    words = words_for(columns, guess)
    if len(words) < 2:
        only = "only one label" if words else "no label"
        raise UserError(
            f"Column '{guess.name}' of {path} has {only}, and a task needs two; name another column with"
            " --label."
        )
    if asked and all(value == word for value, word in words.items()):
        unclear = [value for value in words if not any(c.isalpha() for c in value)]
        for value in unclear:
            words[value] = typer.prompt(f"What does the label {value} mean?", default=value)
    return Described(columns, input_, guess, words)


def _experiment(path: Path, data: Path, found: Described, role: Role, model: str) -> str:
    """The text of the experiment."""
    folder = path.resolve().parent
    used = [*found.texts, found.label]
    others = [each.name for each in found.columns if each not in used]
    names = likely_id(found.columns, used)
    more = [f"id_column: {_yaml(names.name)}"] if names else []
    if found.label.empty:
        signs = ", ".join("null" if sign is None else '""' for sign in found.label.empty)
        more.append(f"unlabelled: [{signs}]    # rows without a label are left out and counted")
    labels = [f"        {_yaml(value)}: {_yaml(word)}" for value, word in found.words.items()]
    characters, context = _two_of_each(found), find_model(model).context_tokens
    needed = next((size for size in _doubled(BLOCK) if size >= characters / CHARACTERS), context)
    return TEMPLATE.format(
        file=_comment(data.name),
        here=_comment(quote(str(path))),
        model=model,
        key=_key(data.stem),
        role=role,
        path=_yaml(os.path.relpath(data.resolve(), folder)),
        texts=", ".join(_yaml(each.name) for each in found.texts),
        others=_comment(", ".join(others) or "no other"),
        label=_yaml(found.label.name),
        labels="\n".join(labels),
        instruction=_yaml(_instruction(list(found.words.values()))),
        more="".join(f"      {line}\n" for line in more),
        characters=f", max_characters: {characters}" if characters > 6_000 else "",
        block=min(needed, context) if role == "tuning" else BLOCK,
        exemplars=_exemplars(found, context),
    )


def _kept(path: Path, text: str) -> list[tuple[str, int]]:
    """Write the experiment, and read the file as a run will; the natural labels with their examples.

    Raises UserError where the experiment or the file has a fault, and leaves no experiment then.
    """
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    try:
        experiment = load_experiment(str(path))
        (dataset,) = (each for each in experiment.datasets() if each.key in experiment.data.own)
        table = load_examples(dataset, experiment, public_source(None))
    except BaseException:
        path.unlink()
        raise
    counts = table.filter(pl.col("input") != "").group_by("label").len().sort("label")
    return list(counts.iter_rows())


def _exemplars(found: Described, context: int) -> int:
    """Exemplars of a class for which every class has enough, and that fit the model's context."""
    texts = zip(found.label.cells, *(each.cells for each in found.texts), strict=True)
    by_class: dict[str, set[tuple[str | None, ...]]] = {}
    for value, *parts in texts:
        if value:
            by_class.setdefault(value, set()).add(tuple(parts))
    halved = [(len(kept) + 1) // 2 for kept in by_class.values()]  # the others are queries
    fitting = context * CHARACTERS // (_two_of_each(found) // 2)
    return max(1, min(EXEMPLARS, fitting, *halved))


def _two_of_each(found: Described) -> int:
    """The characters, roughly, of a prompt with two examples of each class."""
    length = sum(each.mean("characters") for each in found.texts) + FRAME
    return round(2 * len(found.words) * length)


def _doubled(size: int) -> Iterable[int]:
    return (size << times for times in range(12))


def _key(stem: str) -> str:
    """A name for the dataset, which no set of the catalogue has."""
    plain = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
    key = plain if plain[:1].isalpha() else f"set_{plain}".rstrip("_")
    return f"{key}_own" if key in all_datasets() else key


def _instruction(words: Sequence[str]) -> str:
    listed = f": {', '.join(words[:-1])} or {words[-1]}" if len(words) <= 10 else ""
    return f"Which label fits the text{listed}?"


def _yaml(text: str) -> str:
    """A text in double quotes, so that nothing in it is taken for something else."""
    dumped = yaml.safe_dump([text], default_style='"', default_flow_style=True, width=1 << 30)
    return dumped.strip()[1:-1]


def _comment(text: str) -> str:
    """A text for a comment: one line of printable characters."""
    return "".join(c if c.isprintable() else " " for c in text)
