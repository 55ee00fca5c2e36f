"""The generated sets: small sets of English texts as grammars; 33 of no family, 22 of them for tuning.

They are for running the whole pipeline where no data hub can be reached. A set is data: per class a
few templates, and lists of words for their slots. This module knows how to fill a template; it knows
nothing about any set, about symbols, or about prompts.

In the YAML, words are separated by commas, and ` | ` separates the columns of a template. In one
expansion `{animal}` is the same word wherever it stands and `{animal2}` is another word of the
same list. A word with slashes, `hot/cold`, has forms: `{heat[0]}` is hot where `{heat[1]}` is cold.
"""

from __future__ import annotations

import random
import re
import string
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from symtune_pipeline.errors import UserError
from symtune_pipeline.files import parse_yaml

GRAMMARS = Path(__file__).with_suffix(".yaml")


@cache
def generated_sets(grammars: Path = GRAMMARS) -> dict[str, GeneratedSet]:
    """Every generated set by its key, in the order of the YAML file.

    Raises UserError where a grammar does not hold together.
    """
    sets = {}
    text = grammars.read_text(encoding="utf-8")
    for key, grammar in parse_yaml(text, grammars.name).items():
        try:
            sets[key] = GeneratedSet(key=key, **grammar)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (key, *first["loc"])))
            raise UserError(f"{grammars.name}: {where}: {first['msg']}.") from error
    return sets


Word = str | tuple[str, ...]


def _words(listed: str) -> tuple[Word, ...]:
    """'red, hot/cold' → ('red', ('hot', 'cold'))"""
    words = (word.strip() for word in listed.split(","))
    return tuple(tuple(word.split("/")) if "/" in word else word for word in words)


Slots = dict[str, Annotated[tuple[Word, ...], BeforeValidator(_words, json_schema_input_type=str)]]


class ClassGrammar(BaseModel):
    """How the inputs of one class are made: templates, and the slots that only it has."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    templates: Annotated[tuple[str, ...], Field(min_length=1)]
    slots: Slots = {}


class Template(NamedTuple):
    """One pattern per column, and for every list of words the names that it fills in them."""

    patterns: tuple[str, ...]
    fills: tuple[tuple[tuple[str, ...], tuple[Word, ...]], ...]


class GeneratedSet(BaseModel):
    """One set: what it is for, what it asks, and the grammar of each class by its natural label."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str
    role: Literal["tuning", "evaluation"]
    task_type: str
    instruction: str
    columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("text",)
    sentences: bool = True  # a text begins with a capital, and has 'an' before a vowel
    slots: Slots = {}
    classes: Annotated[dict[str, ClassGrammar], Field(min_length=2)]

    @property
    def labels(self) -> tuple[str, ...]:
        """The natural labels; a label's position is its index in the data."""
        return tuple(self.classes)

    def draw(self, label: int, rng: random.Random) -> tuple[str, ...]:
        """One random input of a class, of either split: a text for each column."""
        template = rng.choice(self._templates[label])
        values: dict[str, Word] = {}
        for names, words in template.fills:
            values.update(zip(names, rng.sample(words, len(names)), strict=True))
        texts = (pattern.format_map(values) for pattern in template.patterns)
        return tuple(map(_sentence, texts) if self.sentences else texts)

    @model_validator(mode="after")
    def _templates_fit_their_slots(self) -> GeneratedSet:
        assert self._templates
        return self

    @cached_property
    def _templates(self) -> tuple[tuple[Template, ...], ...]:
        return tuple(
            tuple(self._compile(text, self.slots | grammar.slots) for text in grammar.templates)
            for grammar in self.classes.values()
        )

    def _compile(self, text: str, slots: Slots) -> Template:
        patterns = tuple(text.split(" | "))
        if len(patterns) != len(self.columns):
            raise ValueError(f"template '{text}' needs {len(self.columns)} parts")
        names: dict[str, dict[str, None]] = {}
        for field in filter(None, (field for _, field, *_ in string.Formatter().parse(text))):
            name, _, form = field.rstrip("]").partition("[")
            slot = name.rstrip(string.digits)
            if slot not in slots:
                raise ValueError(f"template '{text}' names an unknown slot '{slot}'")
            for word in slots[slot]:
                forms = 0 if isinstance(word, str) else len(word)
                if (int(form) >= forms) if form else forms:
                    raise ValueError(f"template '{text}': {{{field}}} does not suit '{word}'")
            names.setdefault(slot, {})[name] = None
        return Template(patterns, tuple((tuple(n), slots[slot]) for slot, n in names.items()))


# 'a' before a vowel's sound
AN = re.compile(r"\b([Aa])(?= (?:(?!uni|use|eu|one\b)[aeiou]|hour|honest))")
START = re.compile(r"(?:^|[.?!] )[a-z]")


def _sentence(text: str) -> str:
    """'a owl slept. it dreamt.' → 'An owl slept. It dreamt.'"""
    return START.sub(lambda start: start[0].upper(), AN.sub(r"\1n", text))
