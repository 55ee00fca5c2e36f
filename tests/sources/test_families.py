"""What the families of generated sets promise: many sets, each clear to a reader, no two alike."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain, combinations
from pathlib import Path

import pytest
from conftest import ROOT
from readers import RULES, Texts, guessed

from symtune_pipeline.catalog.datasets import all_datasets, keys_named
from symtune_pipeline.catalog.families import BASICS, EVERY, abouts, family_sets
from symtune_pipeline.catalog.generated import GeneratedSet, generated_sets
from symtune_pipeline.errors import UserError
from symtune_pipeline.sections import DataConfig
from symtune_pipeline.sources.generated import generate

FAMILIES = {name: sets for name, sets in family_sets().items() if name != BASICS}
SETS = {key: each for sets in FAMILIES.values() for key, each in sets.items()}
HELD_OUT = [each for each in generated_sets().values() if each.role == "evaluation"]

Rows = list[tuple[Texts, int]]


@pytest.fixture(scope="module")
def drawn() -> dict[str, Rows]:
    """Rows of every set."""
    return {key: rows(key, "train", 200) for key in SETS}


def rows(key: str, split: str, count: int) -> Rows:
    return [(row[:-1], row[-1]) for row in generate(key, split, count, seed=0).rows()]


def phrases(of: GeneratedSet) -> set[str]:
    """Everything that fills the slots of a set, one form of one word each."""
    slots = (of.slots, *(grammar.slots for grammar in of.classes.values()))
    words = chain.from_iterable(chain.from_iterable(each.values()) for each in slots)
    return set(chain.from_iterable((word,) if isinstance(word, str) else word for word in words))


def telling(of: GeneratedSet) -> set[str]:
    """The words that only some of the classes have: by these a reader tells them apart."""
    by_class = [
        Counter(re.findall(r"[a-z]{2,}", f"{grammar.slots} {grammar.templates}".lower()))
        for grammar in of.classes.values()
    ]
    everywhere = Counter(chain.from_iterable(by_class))
    return {
        w
        for w, n in everywhere.items()
        if n < len(by_class) or len(set(c[w] for c in by_class)) > 1
    }


def test_there_are_more_than_200_sets_of_20_kinds_and_more() -> None:
    assert len(SETS) >= 200 and len(FAMILIES) >= 20
    assert all(len(sets) >= 8 for sets in FAMILIES.values())
    assert {each.role for each in SETS.values()} == {"tuning"}
    assert {len(each.labels) for each in SETS.values()} == {2, 3, 4, 5, 6}
    basics = keys_named(BASICS)
    assert len(basics) == 22 and keys_named(EVERY) == (*basics, *SETS)
    assert keys_named("senses") == tuple(FAMILIES["senses"])


def test_the_page_of_datasets_lists_the_families() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name, sets in family_sets().items():
        types = {each.task_type for each in sets.values()}
        kind = types.pop() if len(types) == 1 else "several"
        assert f"| `{name}` | {len(sets)} | {kind} | {abouts()[name]} |" in page


def test_labels_are_short_told_apart_and_named_by_the_instruction() -> None:
    for key, each in SETS.items():
        for label in each.labels:
            assert len(label.split()) <= 3 and label == label.lower(), key
            assert re.search(rf"\b{label}\b", each.instruction.lower()), key
    assert not {label for each in SETS.values() for label in each.labels} & {
        label for each in HELD_OUT for label in each.labels
    }


def test_no_phrase_of_a_held_out_set_fills_a_slot() -> None:
    held_out = set().union(*map(phrases, HELD_OUT))
    found = {key: phrases(each) & held_out - {"he", "she"} for key, each in SETS.items()}
    assert not {key: shared for key, shared in found.items() if shared}


def test_a_slot_lists_no_word_twice_and_no_two_classes_share_a_word_that_tells_them() -> None:
    for key, each in SETS.items():
        for slots in (each.slots, *(grammar.slots for grammar in each.classes.values())):
            for words in slots.values():
                assert len(words) == len(set(words)), key
        for one, other in combinations(each.classes.values(), 2):
            for slot in one.slots.keys() & other.slots.keys():
                assert not set(one.slots[slot]) & set(other.slots[slot]), key


def test_texts_are_tidy_and_have_one_to_sixty_words(drawn: dict[str, Rows]) -> None:
    lengths = set()
    for key, found in drawn.items():
        counts = Counter(label for _, label in found)
        assert len(counts) == len(SETS[key].labels), key
        assert max(counts.values()) - min(counts.values()) <= 1, key
        for texts, _ in found:
            for text in texts:
                assert text == text.strip() and not re.search(r"[{}]|  | [,.;]|\ba [aio]", text), (
                    text
                )
                assert not SETS[key].sentences or text[0] in '"*' or not text[0].islower(), text
            lengths.add(len(" ".join(texts).split()))
    assert min(lengths) == 1 and 55 <= max(lengths) <= 60


def test_no_text_is_in_two_sets_and_no_question_is_asked_twice(drawn: dict[str, Rows]) -> None:
    where: dict[str, set[str]] = {}
    for key, found in drawn.items():
        for texts, _ in found:
            where.setdefault(" | ".join(texts).lower(), set()).add(key)
    assert not {text: keys for text, keys in where.items() if len(keys) > 1}
    questions = Counter(each.instruction for each in all_datasets().values())
    assert max(questions[each.instruction] for each in SETS.values()) == 1


def test_sets_of_a_family_are_told_by_other_words() -> None:
    """Of the words by which a reader tells the classes, two sets share less than half."""
    for sets in FAMILIES.values():
        words = {key: telling(each) for key, each in sets.items()}
        for one, other in combinations(words, 2):
            shared, either = words[one] & words[other], words[one] | words[other]
            assert len(shared) <= len(either) / 2, (one, other, shared)


def test_a_rule_gives_the_class_where_words_do_not(drawn: dict[str, Rows]) -> None:
    for key, rule in RULES.items():
        labels = SETS[key].labels
        wrong = [
            (texts, labels[label]) for texts, label in drawn[key] if rule(texts) != labels[label]
        ]
        assert not wrong, (key, wrong[:3])


@pytest.mark.slow
def test_every_set_has_as_many_rows_as_an_experiment_asks_for_by_default() -> None:
    data = DataConfig(source="generated")
    for key in SETS:
        train, test = rows(key, "train", data.train_rows), rows(key, "test", data.test_rows)
        assert (len(train), len(test)) == (data.train_rows, data.test_rows)


@pytest.mark.slow
def test_every_other_set_can_be_learnt_from_200_examples(drawn: dict[str, Rows]) -> None:
    """More than half of what guessing leaves wrong is right: how far words, forms and repeats lead."""
    for key in SETS.keys() - RULES.keys():
        asked = rows(key, "test", 60)
        chosen = guessed(drawn[key], [texts for texts, _ in asked])
        right = sum(label == guess for (_, label), guess in zip(asked, chosen, strict=True))
        assert right / len(asked) > (1 + 1 / len(SETS[key].labels)) / 2, key


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ("pets: {classes: {cat: 'a {tom}', dog: rex}}", r"kinds\.pets: .*unknown slot 'which'"),
        ("pets: {classes: {cat: tom}}", r"kinds\.sets\.pets\.classes: .*at least 2"),
        ("pets: {clases: {cat: tom, dog: rex}}", r"kinds\.sets\.pets\.class?es"),
        ("trades: {varies: pet, classes: {cat: tom, dog: rex}}", "the name 'trades' is taken"),
        ("kinds: {varies: pet, classes: {cat: tom, dog: rex}}", "the name 'kinds' is taken"),
    ],
)
def test_a_family_that_does_not_hold_together_is_named(
    sets: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "families.yaml"
    path.write_text(
        "words: {}\nfamilies:\n  kinds:\n    about: Pets.\n    task_type: pets\n"
        "    instruction: 'Is it {labels}?'\n    varies: which\n    templates: ['It is {pet}.']\n"
        f"    sets:\n      {sets}\n",
        encoding="utf-8",
    )
    if "pets: {classes: {cat: 'a" in sets:
        path.write_text(path.read_text().replace("{pet}", "{which} {that}"), encoding="utf-8")
        says = "unknown slot 'that'"
    with pytest.raises(UserError, match=rf"families\.yaml: .*{says}"):
        family_sets(path)
