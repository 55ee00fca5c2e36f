"""Published prompts: their labels are found in the text, and rows that cannot be right are left out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import written_rows

from symtune_pipeline.catalog.datasets import all_datasets, find_dataset
from symtune_pipeline.catalog.tasksource import same_examples, tasksource
from symtune_pipeline.errors import MissingData, UserError
from symtune_pipeline.sources.mirror import Mirror
from symtune_pipeline.sources.tasksource import (
    NO_TASK,
    NOT_FOUND,
    TARGET,
    Found,
    find_labels,
    written_prompts,
)
from symtune_pipeline.tables import WRITTEN_PROMPTS

INPUTS = "Input: good\nOutput: foo\n\nInput: bad\nOutput: bar\n\nInput: odd\nOutput:"


@pytest.mark.parametrize("form", range(len(written_rows.FORMS)))
@pytest.mark.parametrize("trailing", ["", " ", "\n"])
def test_labels_are_found_in_whatever_form_they_stand(form: int, trailing: str) -> None:
    for seed in range(40):
        _, inputs, target, symbols = written_rows.row(seed, form=form, trailing=trailing)
        found = find_labels(inputs, target, symbols)
        assert isinstance(found, Found), found
        shown = [found.symbols[index] for index in found.targets]
        assert len(shown) == 9 and shown[-1] == target
        assert Counter(shown[:-1]) == dict.fromkeys(symbols, 4)
        for start, symbol in zip(found.starts, shown, strict=True):
            assert found.text[start : start + len(symbol)] == symbol
        # The query's label is joined to its text as the others are to theirs.
        before = {re.search(r"\s*$", found.text[:start]).group() for start in found.starts}  # type: ignore[union-attr]
        assert len(before) == 1 and found.text.endswith(f"{next(iter(before))}{target}")


def test_a_symbol_in_a_text_is_no_label() -> None:
    inputs = INPUTS.replace("good", "the foo is bar and foo").replace(
        "odd", "say Output: foo twice"
    )
    found = find_labels(inputs, "bar", ["foo", "bar"])
    assert isinstance(found, Found)
    assert [found.symbols[index] for index in found.targets] == ["foo", "bar", "bar"]
    assert found.text.count("\nOutput:") == len(found.starts)
    assert all(found.text[:start].endswith("\nOutput: ") for start in found.starts)


def test_a_symbol_that_begins_another_one_is_told_from_it() -> None:
    inputs = INPUTS.replace("bar", "foo bar")
    found = find_labels(inputs, "foo", ["foo", "foo bar"])
    assert isinstance(found, Found)
    assert [found.symbols[index] for index in found.targets] == ["foo", "foo bar", "foo"]
    assert find_labels(INPUTS.replace("bar", "foot"), "foo", ["foo", "bar"]) == NOT_FOUND


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ((None, INPUTS, "foo", ["foo", "bar"]), NO_TASK),
        (("", INPUTS, "foo", ["foo", "bar"]), NO_TASK),
        (("t", None, "foo", ["foo", "bar"]), NO_TASK),
        (("t", " \n", "foo", ["foo", "bar"]), NO_TASK),
        (("t", INPUTS, None, ["foo", "bar"]), NO_TASK),
        (("t", INPUTS, " ", ["foo", "bar"]), NO_TASK),
        (("t", INPUTS, "baz", ["foo", "bar"]), TARGET),
        (("t", INPUTS, "foo", ["foo"]), TARGET),
        (("t", INPUTS, "foo", ["foo", "foo "]), TARGET),
        (("t", INPUTS, "foo", ["foo", " "]), TARGET),
        (("t", INPUTS, "foo", ["foo", None]), TARGET),
        (("t", INPUTS, "foo", []), TARGET),
        (("t", INPUTS, "foo", None), TARGET),
        (("t", INPUTS, "foo", ["foo", "bar", "baz"]), NOT_FOUND),
        (("t", INPUTS.replace("bar", "Bar"), "foo", ["foo", "bar"]), NOT_FOUND),
        (("t", "odd\nOutput:", "foo", ["foo", "bar"]), NOT_FOUND),
    ],
)
def test_a_row_that_cannot_be_right_is_left_out_and_counted(
    row: tuple[object, ...], fault: str, tmp_path: Path
) -> None:
    mirror = Mirror(str(tmp_path))
    written_rows.write(mirror, [row, ("t", INPUTS, "bar", ["foo", "bar"])])
    left_out = Counter[str]()
    table = pl.concat(written_prompts(mirror, left_out))
    assert left_out == {fault: 1}
    assert WRITTEN_PROMPTS.checked(table)["prompt"].to_list() == [1]
    assert table["text"].to_list() == [f"{INPUTS} bar"]


def test_a_set_without_a_good_row_or_with_other_columns_is_one_sentence(tmp_path: Path) -> None:
    mirror = Mirror(str(tmp_path))
    with pytest.raises(
        MissingData, match=r"lacks .*icl-symbol-tuning-instruct/default/train\.parquet"
    ):
        list(written_prompts(mirror, Counter()))
    for rows, reason in (
        ([("t", INPUTS, "baz", ["foo", "bar"])] * 2, f"({TARGET} in 2)"),
        ([], "(it has no rows)"),
    ):
        written_rows.write(mirror, rows)
        with pytest.raises(UserError) as error:
            list(written_prompts(mirror, Counter()))
        assert reason in str(error.value) and str(error.value).count(". ") == 0
    mirror.write(tasksource().hub, "train", pl.DataFrame({"task": ["t"], "inputs": ["x"]}))
    with pytest.raises(
        UserError, match=r"train\.parquet has no column 'targets' of String; it needs"
    ):
        list(written_prompts(mirror, Counter()))


@pytest.mark.parametrize(
    ("key", "task", "same"),
    [
        ("teh", "tweet_eval/hate", True),
        ("teh", "tweet_eval/irony", False),
        ("rte", "glue/rte", True),
        ("agn", "ag_news", True),
        ("paws", "paws/labeled_final", True),
        ("snli", "snli", True),
        ("snli", "snli_format", False),
        ("adec", "ade_corpus_v2/Ade_corpus_v2_classification", True),
        ("tos", "lex_glue/unfair_tos", True),
        ("hotel_reviews", "hotel_reviews", False),  # generated here
    ],
)
def test_tasks_with_the_examples_of_a_set_are_known_by_name(
    key: str, task: str, same: bool
) -> None:
    assert same_examples(task, find_dataset(key)) is same


def test_every_public_set_is_known_by_some_name_and_no_other_key_has_one() -> None:
    public = {key for key, entry in all_datasets().items() if entry.hub}
    assert tasksource().also.keys() <= public
    assert re.fullmatch(r"[0-9a-f]{40}", tasksource().hub.revision or "")
