"""How a reader finds the class of a generated text: from its form, or by a rule that takes thinking.

`guessed` is a naive Bayes classifier of what can be seen in a text, taught with some examples. The sets of
`RULES` ask for what no count of words shows; their rules are written here anew, without the templates.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

from symtune_pipeline.catalog.families import every_generated_set

Texts = tuple[str, ...]
COLOURS = {
    *re.findall(r"\w+", "red blue green yellow white black brown pink grey purple orange golden")
}


def seen(texts: Texts) -> set[Hashable]:
    """Words, their neighbours, signs, lengths, repeats, rows of numbers, what columns share."""
    whole = " | ".join(texts)
    words = [word.lower() for word in re.findall(r"\w+|[^\w\s]", whole)]
    plain = [word for word in words if word[0].isalnum()]
    marked = f"^{whole.lower()}$"
    found: set[Hashable] = {*words, *pairwise(words)}
    found |= {marked[i : i + 3] for i in range(len(marked) - 2)}
    found |= {("sign", sign, n) for sign, n in Counter(whole).items() if not sign.isalnum()}
    found |= {("words", len(plain)), ("begins", words[0]), ("ends", words[-1])}
    found.add(("repeats", tuple(plain.index(word) for word in plain[:8])))
    found.add(("twice", len(plain) - len(set(plain))))
    found.add(("case", tuple(map(str.isupper, re.findall(r"[A-Za-z]+", whole)[:4]))))
    numbers = [int(number) for number in re.findall(r"\d+", whole)]
    found.add(("rises", tuple(a < b for a, b in pairwise(numbers))))
    if len(texts) == 2:
        first, second = (re.findall(r"\w+", text.lower()) for text in texts)
        places = [first.index(word) for word in second if word in first]
        found.add(("shared", len(set(first) & set(second))))
        found.add(("order", tuple(a < b for a, b in pairwise(places))))
    return found


def guessed(taught: Sequence[tuple[Texts, int]], asked: Sequence[Texts]) -> list[int]:
    """The likeliest class of each text by what was seen in the examples."""
    counts: defaultdict[int, Counter[Hashable]] = defaultdict(Counter)
    sizes = Counter(label for _, label in taught)
    for texts, label in taught:
        counts[label].update(seen(texts))
    known = set().union(*counts.values())

    def likely(label: int, found: set[Hashable]) -> float:
        total = sizes[label] + 0.2
        return sum(math.log((counts[label][each] + 0.1) / total) for each in found)

    return [
        max(sizes, key=lambda label: likely(label, found))
        for found in (seen(texts) & known for texts in asked)
    ]


def _numbers(texts: Texts) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", " ".join(texts))]


def _names(text: str) -> list[str]:
    """Persons in order: the capitals that stand for nothing else."""
    names = every_generated_set()["taller_than"].slots["name"]
    return [word for word in re.findall(r"\w+", text) if word in names]


def _pairs(key: str, slot: str) -> set[tuple[str, str]]:
    """What a reader has to know beforehand: words that belong together."""
    return {(word[0].lower(), word[1].lower()) for word in every_generated_set()[key].slots[slot]}


def _paired(key: str, slot: str, text: str) -> bool:
    """Whether every word in a text stands with the one that belongs to it."""
    pairs = _pairs(key, slot)
    here = [pair for pair in pairs if all(_stands(word, text) for word in pair)]
    either = {word for pair in pairs for word in pair if _stands(word, text)}
    return bool(here) and either <= {word for pair in here for word in pair}


def _stands(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", text.lower()) is not None


def _rhyme(texts: Texts) -> str:
    words = re.findall(r"\w+", texts[0].replace(" and ", " "))
    pairs = _pairs("rhyme_or_clash", "pair")
    twos = zip(words[::2], words[1::2], strict=True)
    return "rhyme" if all((a, b) in pairs or (b, a) in pairs for a, b in twos) else "clash"


def _forwards(texts: Texts) -> str:
    stages = every_generated_set()["forwards_or_backwards"].slots["stages"]
    text = texts[0].lower()
    [places] = [
        [text.index(stage.lower()) for stage in row]
        for row in stages
        if all(_stands(stage, text) for stage in row)
    ]
    return "forwards" if places == sorted(places) else "backwards"


def _sum(texts: Texts) -> str:
    a, b, c = _numbers(texts)
    less = re.search(r" - | less ", texts[0])
    return "correct" if (a - b if less else a + b) == c else "mistaken"


def _change(texts: Texts) -> str:
    before, after = _numbers(texts)
    if " today after " in texts[0]:
        before, after = after, before
    return "stay" if before == after else "up" if after > before else "down"


def _fifty(texts: Texts) -> str:
    less = re.search(r"fewer than|No more than", texts[1])
    return "right" if (_numbers(texts)[0] < 50) == bool(less) else "wrong"


def _owner(texts: Texts) -> str:
    one, other = _names(texts[0])[:2]
    has = other if re.search(r" gave | found ", texts[0]) else one
    return "sound" if _names(texts[1]) == [has] else "unsound"


def _agent(text: str) -> str:
    names = _names(text)
    return names[-1] if " by " in text else names[0]


def _dearer(texts: Texts) -> str:
    text = texts[0]
    if _numbers(texts):
        (first, a), (second, b) = zip(
            re.findall(r"coat|hat", text.lower()), _numbers(texts), strict=True
        )
        return first if a > b else second
    found = re.search(r"more for the (\w+)|next to the (\w+)", text)
    assert found
    return found[1] or found[2]


def _taller(texts: Texts) -> str:
    text = texts[0]
    found = re.search(r"s (\w+) looks down|(\w+) was shorter|s (\w+) needs|s (\w+) barely", text)
    assert found
    named = found[1] or {"brother": "sister", "sister": "brother"}[found[2] or found[3] or found[4]]
    return named


def _agrees(texts: Texts) -> str:
    text = texts[0]
    if " likes the " in text or " like the " in text:
        many = re.match(r"The \w+s near", text) is not None
        return "agree" if many == (" like the " in text) else "faulty"
    return "agree" if re.search(r" are here | was old", text) else "faulty"


def _verb_form(texts: Texts) -> str:
    base = {word[0] for word in every_generated_set()["verb_forms"].slots["verb"]}
    wants = re.search(r" did not | can ", texts[0]) is not None
    return "proper" if wants == bool(base & set(texts[0].split())) else "improper"


def _pattern(texts: Texts) -> str:
    words = re.findall(r"\w+", texts[0])
    return "".join("ab"[word != words[0]] for word in words)


def _four_names(texts: Texts) -> str:
    a, b, c, d = _names(texts[0])
    return "paired" if a == b and c == d else "crossed" if a == c and b == d else "nested"


def _case(texts: Texts) -> str:
    word = re.findall(r"\w+", texts[0])[0]
    return "lower" if word.islower() else "upper" if word.isupper() else "title"


def _shared_place(texts: Texts) -> str:
    slots = every_generated_set()["match_place"].slots
    places = {*slots["spot"], *slots["town"]}
    first, second = (set(re.findall(r"\w+", text)) & places for text in texts)
    return "shared" if first == second else "separate"


def _either(yes: str, no: str, holds: Callable[[Texts], bool]) -> Callable[[Texts], str]:
    return lambda texts: yes if holds(texts) else no


RULES: dict[str, Callable[[Texts], str]] = {
    "how_many_colours": lambda t: ["", "one", "two", "three"][
        sum(word in COLOURS for word in re.findall(r"\w+", t[0].lower()))
    ],
    "hotel_stars": lambda t: ["", "", "two", "three", "four", "five"][t[0].count("*")],
    "forwards_or_backwards": _forwards,
    "rhyme_or_clash": _rhyme,
    "three_word_pattern": _pattern,
    "case_of_letters": _case,
    "even_or_odd": lambda t: ["even", "odd"][_numbers(t)[0] % 2],
    "sums_right_or_wrong": _sum,
    "rose_fell_stayed": _change,
    "more_or_less_than_fifty": _fifty,
    "city_in_country": _either(
        "plausible", "impossible", lambda t: _paired("city_in_country", "place", " ".join(t))
    ),
    "who_has_it_now": _owner,
    "active_turned_passive": _either("kept", "swapped", lambda t: _agent(t[0]) == _agent(t[1])),
    "match_letter": _either("exact", "flawed", lambda t: t[0] == t[1]),
    "match_person": _either("one", "two", lambda t: _names(t[0]) == _names(t[1])),
    "known_or_stranger": _either(
        "known", "stranger", lambda t: _names(t[0])[-1] in _names(t[0])[:-1]
    ),
    "four_name_pattern": _four_names,
    "match_place": _shared_place,
    "match_number": _either(
        "equal", "unequal", lambda t: _paired("match_number", "n", " ".join(t))
    ),
    "match_feeling": _either(
        "alike", "unlike", lambda t: _paired("match_feeling", "feeling", " ".join(t))
    ),
    "match_translation": _either(
        "right", "mistaken", lambda t: _paired("match_translation", "word", " ".join(t))
    ),
    "match_short_form": _either(
        "proper", "improper", lambda t: _paired("match_short_form", "form", " ".join(t))
    ),
    "match_first_sound": _either(
        "in tune",
        "out of tune",
        lambda t: (
            len({w[0] for w in re.findall(r"\b[a-z]\w*", " ".join(t)) if w not in ("and", "for")})
            == 1
        ),
    ),
    "coat_or_hat": _dearer,
    "brother_or_sister_taller": _taller,
    "verb_agreement": _agrees,
    "verb_forms": _verb_form,
}
