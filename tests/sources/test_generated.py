"""What the generated sets promise to the rest of the pipeline."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import polars as pl
import pytest

from symtune_pipeline.catalog.generated import GeneratedSet, generated_sets
from symtune_pipeline.errors import UserError
from symtune_pipeline.sources.generated import generate

SETS = generated_sets()
every_set = pytest.mark.parametrize("key", SETS)


def with_role(role: str) -> list[GeneratedSet]:
    return [s for s in SETS.values() if s.role == role]


def phrases(sets: list[GeneratedSet]) -> set[str]:
    """Everything that fills the slots of these sets, one form of one word each."""
    grammars = chain.from_iterable((s.slots, *(c.slots for c in s.classes.values())) for s in sets)
    words = chain.from_iterable(chain.from_iterable(slots.values()) for slots in grammars)
    return set(chain.from_iterable((word,) if isinstance(word, str) else word for word in words))


def content_words(sets: list[GeneratedSet]) -> set[str]:
    """The words of four letters and more in those phrases."""
    return set(re.findall(r"[a-z]{4,}", " ".join(phrases(sets)).lower()))


def inputs(frame: pl.DataFrame) -> list[tuple[str, ...]]:
    return frame.drop("label").rows()


def test_there_are_22_sets_for_tuning_and_11_for_evaluation() -> None:
    assert (len(with_role("tuning")), len(with_role("evaluation"))) == (22, 11)


def test_held_out_sets_share_no_label_with_tuning_sets() -> None:
    tuning = {label for s in with_role("tuning") for label in s.labels}
    assert not tuning & {label for s in with_role("evaluation") for label in s.labels}


def test_held_out_sets_share_no_slot_phrase_with_tuning_sets_but_pronouns() -> None:
    assert phrases(with_role("tuning")) & phrases(with_role("evaluation")) <= {"he", "she"}


def test_held_out_sets_share_few_content_words_with_tuning_sets() -> None:
    tuning, held_out = (content_words(with_role(role)) for role in ("tuning", "evaluation"))
    assert len(tuning & held_out) / len(tuning | held_out) < 0.06


def test_every_held_out_task_type_has_relatives_among_the_tuning_sets() -> None:
    assert {s.task_type for s in with_role("evaluation")} <= {
        s.task_type for s in with_role("tuning")
    }


@every_set
def test_a_set_has_two_to_six_short_lower_case_labels_that_its_instruction_names(key: str) -> None:
    chosen = SETS[key]
    assert 2 <= len(chosen.labels) <= 6
    for label in chosen.labels:
        assert len(label.split()) <= 2
        assert label.lower() == label
        assert re.search(rf"\b{label}\b", chosen.instruction)


@every_set
def test_every_slot_is_used_and_lists_no_word_twice(key: str) -> None:
    chosen = SETS[key]
    everywhere = " ".join(chain(*(grammar.templates for grammar in chosen.classes.values())))
    readers = [(chosen.slots, everywhere)]
    readers += [(grammar.slots, " ".join(grammar.templates)) for grammar in chosen.classes.values()]
    for slots, templates in readers:
        for slot, words in slots.items():
            assert len(words) == len(set(words))
            assert re.search(rf"{{{slot}\d*(\[\d\])?}}", templates)


@every_set
def test_a_class_has_three_templates_and_1500_short_inputs_of_its_own(key: str) -> None:
    chosen = SETS[key]
    rng = random.Random(0)
    classes = []
    for label, grammar in enumerate(chosen.classes.values()):
        assert len(grammar.templates) >= 3
        drawn: set[tuple[str, ...]] = set()
        for _ in range(15_000):
            drawn.add(chosen.draw(label, rng))
            if len(drawn) == 1500:
                break
        assert len(drawn) == 1500
        classes.append(drawn)
    lengths = Counter(len(" ".join(text).split()) for text in chain(*classes))
    assert min(lengths) >= 5
    assert max(lengths) <= (14 if len(chosen.columns) == 1 else 22)
    assert len(set().union(*classes)) == 1500 * len(classes)


@every_set
def test_a_frame_holds_distinct_tidy_inputs_and_balanced_labels(key: str) -> None:
    chosen = SETS[key]
    frame = generate(key, "train", 100, seed=3)
    assert frame.columns == [*chosen.columns, "label"]
    assert frame["label"].dtype == pl.Int64
    assert len(set(inputs(frame))) == 100
    counts = Counter(frame["label"].to_list())
    assert sorted(counts) == list(range(len(chosen.labels)))
    assert max(counts.values()) - min(counts.values()) <= 1
    for text in chain(*inputs(frame)):
        assert not re.search(r"[{}/]|  |\ba [aio]", text)
        assert text[0].isupper() or text[0] == '"'
        assert text[-1] in '.?!"'


def test_splits_share_no_input_even_under_different_seeds() -> None:
    for key in SETS:
        train, test = generate(key, "train", 200, seed=1), generate(key, "test", 200, seed=2)
        assert not set(inputs(train)) & set(inputs(test))


def test_no_input_is_in_two_sets() -> None:
    counts = Counter("|".join(t) for key in SETS for t in inputs(generate(key, "train", 200, 0)))
    assert max(counts.values()) == 1


def test_the_same_arguments_give_the_same_rows_in_another_process() -> None:
    program = (
        "from symtune_pipeline.sources.generated import generate;"
        "print(generate('hotel_reviews', 'test', 20, 7).write_csv(), end='')"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert other.stdout == generate("hotel_reviews", "test", 20, 7).write_csv()
    assert other.stdout != generate("hotel_reviews", "test", 20, 8).write_csv()


def test_an_unknown_set_or_split_and_too_many_rows_are_user_errors() -> None:
    with pytest.raises(UserError, match="No generated set is called 'hotels'"):
        generate("hotels", "train", 10, 0)
    with pytest.raises(UserError, match="no split 'dev'"):
        generate("hotel_reviews", "dev", 10, 0)
    with pytest.raises(UserError, match=r"'asked_detail' ran out .* 9000 asked for"):
        generate("asked_detail", "train", 9000, 0)


def test_a_template_with_an_unknown_slot_is_named_in_a_user_error(tmp_path: Path) -> None:
    grammars = tmp_path / "sets.yaml"
    grammars.write_text(
        "pets: {role: tuning, task_type: topic, instruction: 'Cat or dog?', classes: "
        "{cat: {templates: ['A {cat} slept.']}, dog: {templates: ['A dog slept.']}}}"
    )
    with pytest.raises(UserError, match=r"sets\.yaml: pets: .*unknown slot 'cat'"):
        generated_sets(grammars)
