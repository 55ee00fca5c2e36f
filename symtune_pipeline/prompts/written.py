"""Prompts that others wrote: which of them make a mixture, and which measure progress.

They are drawn without replacement, in an order by the seed in which every task comes once before any
comes again. So every task has an equal share while it has prompts left, and a smaller mixture is a part
of a larger one. This module knows nothing about tokens.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from symtune_pipeline.catalog.datasets import Dataset
from symtune_pipeline.catalog.tasksource import same_examples, tasksource
from symtune_pipeline.errors import UserError
from symtune_pipeline.errors.settings import nearest
from symtune_pipeline.prompts.mixture import sets_to_draw
from symtune_pipeline.sections import MixtureConfig
from symtune_pipeline.tables import WRITTEN_PROMPTS

LOOKED_AT = 2_000  # prompts at a time whose texts are compared with those of the evaluation
# Characters of a normalised evaluation text from which it is looked for: shorter ones, such as a
# question of three words, stand in texts that have nothing to do with it.
TELLING = 30

TASK = "a task with the examples of an evaluation set"
LONG = "more characters than mixture.max_characters"
SYMBOL = "a symbol that is kept for evaluation or is a set's own label"
TEXT = "the text of an evaluation example"


@dataclass(frozen=True)
class Guarded:
    """What no prompt of a mixture may have."""

    sets: Sequence[Dataset]  # those that are evaluated
    symbols: Collection[str]  # in lower case
    texts: Sequence[str]  # of evaluation examples

    def tasks(self, every: Collection[str]) -> dict[str, str]:
        """The tasks that have the examples of an evaluation set, with the first such set."""
        found = {
            task: next((entry.key for entry in self.sets if same_examples(task, entry)), None)
            for task in sorted(every)
        }
        return {task: key for task, key in found.items() if key}

    def faults(self, prompts: pl.DataFrame) -> list[str]:
        """What is wrong with prompts of `tables.WRITTEN_PROMPTS`, a phrase for each that has a fault."""
        tasks = self.tasks(prompts["dataset"].unique().to_list())
        clean = set(self.clean(prompts)["prompt"])
        symbols = set(self.symbols)
        faults = []
        for row in prompts.select("prompt", "dataset", "labels").iter_rows(named=True):
            where = f"{row['prompt']} of {row['dataset']}"
            if row["dataset"] in tasks:
                faults.append(f"{where} has the examples of {tasks[row['dataset']]}")
            elif symbols.intersection(map(str.lower, row["labels"])):
                faults.append(f"{where} has {SYMBOL}")
            elif row["prompt"] not in clean:
                faults.append(f"{where} has {TEXT}")
        return faults

    def clean(self, prompts: pl.DataFrame) -> pl.DataFrame:
        """Those of `tables.WRITTEN_PROMPTS` in whose text no evaluation text stands."""
        telling = [text for text in map(_normalised, self.texts) if len(text) >= TELLING]
        texts = pl.Series(map(_normalised, prompts["text"]), dtype=pl.String)
        return prompts.filter(~texts.str.contains_any(sorted(set(telling)))) if telling else prompts


@dataclass
class Drawn:
    """A mixture, prompts to measure on, and how many prompts were left out, by why."""

    mixture: pl.DataFrame
    held_out: pl.DataFrame
    left_out: Counter[str]
    tasks_left_out: dict[str, str]  # with the evaluation sets whose examples they have

    def sentences(self, config: MixtureConfig) -> list[str]:
        """What is not as asked for, or was left out."""
        tasks = ", ".join(f"{task} ({key})" for task, key in self.tasks_left_out.items())
        said = [f"left out tasks with the examples of evaluation sets: {tasks}"] if tasks else []
        said += [f"left out {rows:,} prompts with {fault}" for fault, rows in self.left_out.items()]
        if len(self.mixture) < config.prompts:
            said.append(
                f"the mixture has {len(self.mixture):,} prompts and not {config.prompts:,}: there are no more"
            )
        return said


def draw_written(
    prompts: pl.LazyFrame, config: MixtureConfig, seed: int, guarded: Guarded
) -> Drawn:
    """`config.prompts` prompts for the mixture, and the next ones for measuring, as far as there are some.

    `prompts` and what is drawn are of `tables.WRITTEN_PROMPTS`. Raises UserError where
    `config.leave_out` or `config.sets` asks for tasks that are not there, and where none is left.
    """
    left_out: Counter[str] = Counter()
    index = prompts.select(
        "prompt", "dataset", "labels", characters=pl.col("text").str.len_chars()
    ).collect()
    evaluated = guarded.tasks(index["dataset"].unique().to_list())
    tasks = _tasks(index["dataset"].unique().to_list(), evaluated, config, seed)
    kept_apart = pl.col("labels").list.eval(
        pl.element().str.to_lowercase().is_in(sorted(guarded.symbols))
    )
    left_out[TASK] = int(index["dataset"].is_in(list(evaluated)).sum())
    index = index.filter(pl.col("dataset").is_in(tasks))
    for fault, wrong in (
        (LONG, pl.col("characters") > config.max_characters),
        (SYMBOL, kept_apart.list.any()),
    ):
        left_out[fault] = index.select(wrong.sum()).item()
        index = index.filter(~wrong)
    chosen = _without_texts(prompts, _in_order(index, config, seed), config, guarded, left_out)
    most = min(config.prompts, len(chosen) - config.held_out_prompts)
    if most <= 0:
        raise UserError(_none_left(len(chosen), config, left_out))
    return Drawn(chosen[:most], chosen[most:], +left_out, evaluated)


def kept_symbols(pool: pl.DataFrame, labels: Collection[str]) -> list[str]:
    """The evaluation symbols of a `tables.SYMBOL_POOL` and natural labels, in lower case."""
    kept = pool.filter(split="evaluation")["symbol"].to_list()
    return sorted({symbol.lower() for symbol in [*kept, *labels]})


def _tasks(
    there: Sequence[str], evaluated: Collection[str], config: MixtureConfig, seed: int
) -> list[str]:
    """The tasks that are drawn from, by `mixture.sets` and `mixture.leave_out`."""
    names = {part for task in there for part in (task, task.partition("/")[0])}
    for name in config.leave_out:
        if name not in names:
            near = nearest(name, names)
            hint = f"; did you mean '{near}'?" if near else "; name one of its tasks."
            raise UserError(
                f"mixture.leave_out names '{name}', which no task of tasksource has{hint}"
            )
    left_out = {task for task in there if {task, task.partition("/")[0]} & set(config.leave_out)}
    return sets_to_draw(there, config, seed, left_out.union(evaluated))


def _in_order(index: pl.DataFrame, config: MixtureConfig, seed: int) -> pl.DataFrame:
    """The order in which prompts are drawn: of a task by chance, of tasks in turn or by their weights."""
    rng = np.random.default_rng([seed, zlib.crc32(b"written")])
    numbers = index["prompt"].cast(pl.Int64).to_numpy()
    # By its number, so that a prompt's chance is the same whichever others are left out.
    chance = rng.random(int(numbers.max(initial=-1)) + 1)[numbers]
    sizes = index.group_by("dataset").len().with_columns(pl.col("len").log().alias("size"))
    power = 0.0 if config.temperature is None else 1 / config.temperature
    weights = sizes.select(
        "dataset", weight=((pl.col("size") - pl.col("size").max()) * power).exp()
    )
    return (
        index.with_columns(chance=pl.Series(chance, dtype=pl.Float64))
        .join(weights, on="dataset", maintain_order="left")
        .with_columns(turn=pl.col("chance").rank("ordinal").over("dataset") / pl.col("weight"))
        .sort("turn", "chance", "prompt")
    )


def _without_texts(
    prompts: pl.LazyFrame,
    order: pl.DataFrame,
    config: MixtureConfig,
    guarded: Guarded,
    left_out: Counter[str],
) -> pl.DataFrame:
    """The first prompts in order that have no evaluation text, as many as are asked for."""
    wanted = config.prompts + config.held_out_prompts
    frames = [WRITTEN_PROMPTS.frame()]
    size = max(LOOKED_AT, wanted)
    for some in order.iter_slices(size):
        numbers = some.select("prompt")
        found = numbers.join(
            prompts.filter(pl.col("prompt").is_in(numbers["prompt"].implode())).collect(),
            on="prompt",
            maintain_order="left",
        )
        frames.append(guarded.clean(found))
        left_out[TEXT] += len(found) - len(frames[-1])
        if sum(map(len, frames)) >= wanted:
            break
    return pl.concat(frames).head(wanted)


def _none_left(chosen: int, config: MixtureConfig, left_out: Counter[str]) -> str:
    faults = ", ".join(f"{rows:,} have {fault}" for fault, rows in (+left_out).items())
    because = f" ({faults})" if faults else ""
    if chosen:
        return (
            f"{tasksource().key} has {chosen:,} prompts for this experiment{because}, which"
            f" mixture.held_out_prompts, {config.held_out_prompts:,}, leaves none of; lower it."
        )
    return (
        f"{tasksource().key} has no prompt for this experiment{because}; raise mixture.max_characters,"
        " name fewer tasks in mixture.leave_out, or set mixture.source to datasets."
    )


def _normalised(text: str) -> str:
    """A text as a reader of two copies takes it, without case, marks and spaces."""
    return re.sub(r"[\W_]+", "", text.casefold())
