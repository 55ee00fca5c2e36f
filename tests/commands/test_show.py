"""A prompt as a person sees it: the text that the model gets, with its labels marked."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from symtune_pipeline.catalog.datasets import all_datasets, find_dataset, keys_named
from symtune_pipeline.catalog.formats import prompt_formats
from symtune_pipeline.commands.show_dataset import family_table
from symtune_pipeline.commands.show_prompt import evaluation_prompts, printed, tuning_prompts
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.suites import classification_suite
from symtune_pipeline.prompts.mixture import mixture_chunks
from symtune_pipeline.prompts.symbols import SymbolSampler
from symtune_pipeline.prompts.text import render, segments
from symtune_pipeline.sections import EvaluationConfig, MixtureConfig
from symtune_pipeline.tables import SETTINGS, ZERO_SHOT, flipped_setting

TUNING, HELD_OUT = find_dataset("news_topics"), find_dataset("life_events")


@pytest.fixture(scope="module")
def mixture(tuning_examples: pl.DataFrame, symbols: pl.DataFrame) -> pl.DataFrame:
    config = MixtureConfig(prompts=80, exemplars_per_class=(1, 2), instructed_share=0.4)
    return pl.concat(mixture_chunks(tuning_examples, SymbolSampler(symbols, "tuning"), config, 0))


@pytest.fixture(scope="module")
def suite(evaluation_examples: pl.DataFrame, symbols: pl.DataFrame) -> pl.DataFrame:
    config = EvaluationConfig(exemplars_per_class=2, contexts=2, queries=3)
    instructions = {key: entry.instruction for key, entry in all_datasets().items()}
    return classification_suite(evaluation_examples, symbols, instructions, config, 0)


def _printed(*arguments: Any, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(), force_terminal=colour, color_system="256" if colour else None, width=80
    )
    console.print(printed(*arguments, colour), soft_wrap=True)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def _head_and_prompt(text: str) -> tuple[list[str], str]:
    head, _, prompt = text.partition("\n\n")
    return head.splitlines(), prompt.removesuffix("\n")


def test_a_tuning_prompt_has_its_symbols_in_brackets_and_its_target_in_two(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame
) -> None:
    prompts = tuning_prompts(mixture, tuning_examples, TUNING)
    row = mixture.filter(~pl.col("instructed"), dataset="news_topics").row(1, named=True)
    text = _printed(prompts, tuning_examples, TUNING, "symbols, no instruction", 1)
    head, prompt = _head_and_prompt(text)

    *marks, target = [f"[{row['labels'][index]}]" for index in row["targets"]]
    inputs = [tuning_examples["input"][example] for example in row["examples"]]
    assert prompt == render(segments(row["format"], inputs, [*marks, f"[{target}]"]))
    style = prompt_formats()[row["format"]].name
    assert head[0].startswith("news_topics, prompt 1 of ")
    assert head[1] == f"symbols, no instruction; format {style}"
    legend = dict(line.split(" → ") for line in head[2:])
    assert {name.strip(): label for name, label in legend.items()} == dict(
        zip(TUNING.labels.values(), (f"[{label}]" for label in row["labels"]), strict=True)
    )


def test_an_instructed_prompt_opens_with_the_instruction(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame
) -> None:
    prompts = tuning_prompts(mixture, tuning_examples, TUNING)
    assert set(prompts["setting"]) == {"symbols, no instruction", "relevant labels, instruction"}
    text = _printed(prompts, tuning_examples, TUNING, "relevant labels, instruction", 0)
    _, prompt = _head_and_prompt(text)
    assert prompt.startswith(f"{TUNING.instruction}\n\n")
    assert any(prompt.endswith(f"[[{label}]]") for label in TUNING.labels.values())


def test_colour_marks_instead_of_brackets_and_changes_no_character(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame
) -> None:
    prompts = tuning_prompts(mixture, tuning_examples, TUNING)
    coloured = _printed(prompts, tuning_examples, TUNING, None, 0, colour=True)
    row = mixture.filter(dataset="news_topics").row(0, named=True)
    target = row["labels"][row["targets"][-1]]
    assert coloured.rstrip().endswith(f"{target}\x1b[0m")
    _, plain = _head_and_prompt("".join(_without_escapes(coloured)))
    inputs = [tuning_examples["input"][example] for example in row["examples"]]
    labels = [row["labels"][index] for index in row["targets"]]
    instruction = TUNING.instruction if row["instructed"] else None
    assert plain == render(segments(row["format"], inputs, labels, instruction))


def _without_escapes(text: str) -> list[str]:
    first, *rest = text.split("\x1b[")
    return [first, *(escaped.partition("m")[2] for escaped in rest)]


def test_an_evaluation_set_has_the_settings_of_the_suite(
    suite: pl.DataFrame, evaluation_examples: pl.DataFrame
) -> None:
    prompts = evaluation_prompts(suite, HELD_OUT)
    names = [*(setting.name for setting in SETTINGS), flipped_setting(100), ZERO_SHOT]
    assert prompts["setting"].unique(maintain_order=True).to_list() == names
    for setting in names:
        text = _printed(prompts, evaluation_examples, HELD_OUT, setting, 4)
        head, prompt = _head_and_prompt(text)
        assert head[0] == "life_events, prompt 4 of 6"
        row = prompts.filter(setting=setting).row(4, named=True)
        assert prompt.startswith(row["instruction"] or "") is True
        assert (HELD_OUT.instruction in prompt) == setting.endswith(", instruction")
        assert prompt.endswith(f" [[{row['labels'][row['targets'][-1]]}]]")
        natural = "symbols" not in setting and (setting != ZERO_SHOT or row["targets"] == [0])
        assert (f"[{HELD_OUT.labels[0]}]" in prompt) == natural  # type: ignore[index]


@pytest.mark.parametrize(
    ("setting", "number", "sentence"),
    [
        ("symbols", 0, "has no prompt of setting 'symbols'; choose one of .*; symbols, instruction; "),
        (None, 36, "There is no prompt 36 of dataset 'life_events'; choose a number from 0 to 35"),
        ("symbols, instruction", -1, "There is no prompt -1 .* from 0 to 5"),
    ],
)  # fmt: skip
def test_an_unknown_setting_or_number_is_one_sentence(
    setting: str | None,
    number: int,
    sentence: str,
    suite: pl.DataFrame,
    evaluation_examples: pl.DataFrame,
) -> None:
    prompts = evaluation_prompts(suite, HELD_OUT)
    with pytest.raises(UserError, match=sentence) as error:
        printed(prompts, evaluation_examples, HELD_OUT, setting, number, False)
    assert "\n" not in str(error.value)


def test_a_family_is_shown_with_what_its_sets_ask() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(family_table("senses"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "10 generated sets. A word with two meanings" in text
    assert all(find_dataset(key).instruction in text for key in keys_named("senses"))


def test_a_dataset_without_prompts_is_one_sentence(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame
) -> None:
    prompts = tuning_prompts(mixture.clear(), tuning_examples, TUNING)
    with pytest.raises(UserError, match="'news_topics' is in no prompt that was made; "):
        printed(prompts, tuning_examples, TUNING, None, 0, False)


def test_text_that_looks_like_markup_is_shown_as_it_is(
    mixture: pl.DataFrame, tuning_examples: pl.DataFrame
) -> None:
    odd = tuning_examples.with_columns(input=pl.lit("[bold]a[/bold] :smile: [link"))
    text = _printed(tuning_prompts(mixture, odd, TUNING), odd, TUNING, None, 0)
    assert "[bold]a[/bold] :smile: [link" in text


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ("hotel_reviews", "holds nothing yet; materialise 'tuning_mixture' first."),
        ("phone_reviews", "holds nothing yet; materialise 'eval' first."),
        ("rte", "Experiment 'smoke' has no dataset 'rte'; choose one of hotel_reviews, "),
    ],
)
def test_the_command_says_in_one_sentence_what_is_not_there(
    dataset: str, sentence: str, tmp_path: Path
) -> None:
    program = "from symtune_pipeline.commands.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "show", "prompt", "--dataset", dataset],
        env=os.environ | {"SYMTUNE_HOME": str(tmp_path), "SYMTUNE_EXPERIMENT": "smoke"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
