"""Exports the suites as tasks of EleutherAI's lm-evaluation-harness: YAML and JSON lines, no Python code.

    <folder>/README.md
    <folder>/symtune.yaml                              the group of all tasks
    <folder>/symtune_icl_symbols_no_instruction.yaml   and .jsonl, so for each setting

The harness sees the prompts that our models see, and ranks the same texts: for each label one space
and the label.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
import yaml

from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.commands.export_folder import README, TAG, replacing
from symtune_pipeline.prompts.text import (
    algorithmic_prompt,
    classification_prompt,
    label_text,
    render,
)
from symtune_pipeline.store.folder import Store
from symtune_pipeline.tables import ALGORITHMIC_SUITE, CLASSIFICATION_SUITE

GROUP = "symtune"
TEXT = f"""# Evaluation suites of {TAG}, for lm-evaluation-harness

    lm_eval --model hf --model_args pretrained=<model>,dtype=float32{{argument}} \\
      --include_path {{folder}} --tasks {GROUP}{{option}}

{{form}} {TAG} scores in float32 on a CPU.
The tasks contain the path of their data, so do not move this folder: export again.
Version of the suites: {{version}}.
"""


@dataclass(frozen=True)
class _Form:
    """What the harness must be told of the prompts: an argument of its model, an option, and why."""

    argument: str
    option: str
    why: str


FORMS = {  # by the experiment's evaluation.chat_template
    False: _Form(
        "",
        "",
        f"""The prompts are for base models: do not apply a chat template. Leave add_bos_token out, so that a
prompt begins as the model's tokenizer begins a text, as it does in {TAG}.""",
    ),
    True: _Form(
        ",add_bos_token=False",
        " --apply_chat_template",
        f"""The prompts are messages: let the harness apply the chat template. The template writes what stands
before a message, so that the tokenizer adds nothing. A template that writes the date writes that of
the day in the harness, and 26 July 2024 in {TAG}.""",
    ),
}

Settings = dict[str, Any]


@dataclass(frozen=True)
class _Task:
    """A task: its settings for the harness, and a document per query."""

    name: str
    settings: Settings
    documents: list[dict[str, Any]]


def lm_eval(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one with an earlier export.")],
) -> None:
    """Export the evaluation suites as tasks of lm-evaluation-harness.

    The harness finds them with --include_path.

    Example: symtune export lm-eval /tmp/tasks
    """
    chat = current_experiment().evaluation.chat_template
    for name, queries in export_tasks(current_store(), folder, chat).items():
        typer.echo(f"{name}: {queries:,} queries")


def export_tasks(store: Store, folder: Path, chat: bool = False) -> dict[str, int]:
    """Write the tasks into `folder`, in place of an earlier export; returns queries by task.

    With `chat`, the harness is to put each prompt into the model's chat template. Raises UserError
    where the suites were not made, and where `folder` cannot be written or holds anything else.
    """
    examples = store.read_input("eval", "int_evaluation_examples").sort("example")
    tasks = [
        *_classification(
            store.read_table("eval", name=CLASSIFICATION_SUITE.file), examples["input"]
        ),
        *_algorithmic(store.read_table("eval", name=ALGORITHMIC_SUITE.file)),
    ]
    version = store.manifest("eval").version
    final = folder.resolve()
    with replacing(folder, (README, "*.yaml", "*.jsonl")) as beside:
        for task in tasks:
            lines = (json.dumps(document) + "\n" for document in task.documents)
            (beside / f"{task.name}.jsonl").write_text("".join(lines), encoding="utf-8")
            file = escape(str(final / f"{task.name}.jsonl"))  # to `datasets`, a path is a pattern
            data = {"dataset_kwargs": {"data_files": {"test": file}}}
            settings = {"task": task.name} | _COMMON | data | task.settings | _versioned(version)
            _write_yaml(beside, task.name, settings)
        group = {"group": GROUP, "task": [task.name for task in tasks]}
        _write_yaml(beside, GROUP, group | _versioned(version))
        form = FORMS[chat]
        told = {"argument": form.argument, "option": form.option, "form": form.why}
        text = TEXT.format(folder=final, version=version, **told)
        (beside / README).write_text(text, encoding="utf-8")
    return {task.name: len(task.documents) for task in tasks}


# The harness takes a setting that is the name of a field as that field's value, not as a template.
_COMMON: Settings = {
    "dataset_path": "json",
    "test_split": "test",
    "num_fewshot": 0,
    "doc_to_text": "prompt",
}
_RANKED: Settings = {
    "output_type": "multiple_choice",
    "doc_to_choice": "labels",
    "doc_to_target": "target",
    "target_delimiter": label_text(""),
    # The argmax of the summed log-probabilities.
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def _classification(suite: pl.DataFrame, inputs: pl.Series) -> Iterator[_Task]:
    """A task per benchmark and setting, whose labels are ranked."""
    texts = inputs.to_list()
    for key, rows in _by_setting(suite):
        documents = [
            {
                "prompt": render(classification_prompt(row, texts)),
                "labels": row["labels"],
                "target": row["target"],
                "dataset": row["dataset"],
                "context": row["context"],
            }
            for row in rows.iter_rows(named=True)
        ]
        yield _Task(_name(key), _RANKED, documents)


def _algorithmic(suite: pl.DataFrame) -> Iterator[_Task]:
    """A task per benchmark and setting, whose target is generated to the end of the line."""
    for key, rows in _by_setting(suite):
        documents = [
            {
                "prompt": render(algorithmic_prompt(row)),
                "target": row["target"],
                "concept": row["concept"],
            }
            for row in rows.iter_rows(named=True)
        ]
        # A token is at least a byte, and these targets are ASCII.
        longest = max(len(label_text(document["target"])) for document in documents) + 1
        settings = {
            "output_type": "generate_until",
            "doc_to_target": "target",
            "generation_kwargs": {
                "until": ["\n"],
                "do_sample": False,
                # Which a model's own generation settings may ask for otherwise.
                "repetition_penalty": 1.0,
                "max_gen_toks": longest,
            },
            "filter_list": [
                {
                    "name": "stripped",
                    # Of the completion without the white space around it, which this filter removes.
                    "filter": [
                        {"function": "regex", "regex_pattern": ".*"},
                        {"function": "take_first"},
                    ],
                }
            ],
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
        }
        yield _Task(_name(key), settings, documents)


def _by_setting(suite: pl.DataFrame) -> Iterator[tuple[tuple[Any, ...], pl.DataFrame]]:
    yield from suite.group_by("benchmark", "setting", maintain_order=True)


def _name(key: Sequence[object]) -> str:
    """'symtune_icl_symbols_no_instruction'"""
    return "_".join([GROUP, *re.findall(r"\w+", " ".join(map(str, key)))])


def _versioned(version: str) -> Settings:
    return {"metadata": {"version": version}}


def _write_yaml(folder: Path, name: str, settings: Settings) -> None:
    text = yaml.safe_dump(settings, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
