"""The families of generated sets: many tuning sets of one kind, which share templates and words.

They are for asking how the gain grows with the number and the kinds of sets. A family is data, as a set
is: what its sets have in common, and per set the classes. This module knows how to complete a set from
its family; it knows nothing about any family.

In the YAML, `words` are slots that all families may use. A set has whatever its family has and it does
not say itself. A class is the words of the slot that `varies` names, or a list of templates, or both as
`templates` and `slots`. `{labels}` in an instruction stands for the labels, as 'a, b or c'.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symtune_pipeline.catalog.generated import ClassGrammar, GeneratedSet, generated_sets
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import parse_yaml

FAMILIES = Path(__file__).with_suffix(".yaml")
BASICS = "basics"  # the tuning sets of generated.yaml, as a family beside the others
EVERY = "families"  # a name for the sets of all families

Words = dict[str, str]
Class = str | list[str] | dict[str, Any]


class FamilySet(BaseModel):
    """A set of a family; what it leaves out is the family's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    instruction: str | None = None
    columns: tuple[str, ...] | None = None
    slots: Words = {}
    templates: list[str] | None = None
    varies: str | None = None
    sentences: bool | None = None
    classes: Annotated[dict[str, Class], Field(min_length=2)]


class Family(BaseModel):
    """What the sets of a family have in common, and the sets by key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str
    task_type: str
    instruction: str = ""
    columns: tuple[str, ...] = ("text",)
    slots: Words = {}
    templates: list[str] = []
    varies: str = ""
    sentences: bool = True
    sets: dict[str, FamilySet]

    def grammar(self, key: str, words: Words) -> GeneratedSet:
        """The set `key` in full; `words` are slots for the sets of all families.

        Raises ValidationError where it does not hold together.
        """
        own = self.sets[key]
        shared = self.model_dump(include=set(FamilySet.model_fields))
        full = shared | own.model_dump(exclude_none=True)
        return GeneratedSet.model_validate(
            {
                "key": key,
                "role": "tuning",
                "task_type": self.task_type,
                "instruction": full["instruction"].format(labels=_either([*own.classes])),
                "columns": full["columns"],
                "sentences": full["sentences"],
                "slots": words | self.slots | own.slots,
                "classes": {
                    label: _class(given, full["varies"], full["templates"])
                    for label, given in own.classes.items()
                },
            }
        )


@cache
def abouts(families: Path = FAMILIES) -> dict[str, str]:
    """What each family is about, in a sentence."""
    own = {name: described["about"] for name, described in _read(families)["families"].items()}
    return {BASICS: "Sentences of every kind, each set with templates of its own."} | own


@cache
def family_sets(families: Path = FAMILIES) -> dict[str, dict[str, GeneratedSet]]:
    """By family, its sets by key: the basics, then those of the YAML file in its order.

    Raises UserError where a family does not hold together, and where a key comes twice.
    """
    basics = {key: each for key, each in generated_sets().items() if each.role == "tuning"}
    content = _read(families)
    found, taken = {BASICS: basics}, {EVERY, BASICS, *generated_sets()}
    for name, described in content["families"].items():
        where = [name]
        try:
            family = Family.model_validate(described)
            found[name] = {}
            for key in family.sets:
                where = [name, key]
                found[name][key] = family.grammar(key, content["words"])
        except ValidationError as error:
            first = error.errors()[0]
            where += map(str, first["loc"])
            raise UserError(f"{families.name}: {'.'.join(where)}: {first['msg']}.") from error
        for key in (name, *found[name]):
            if key in taken:
                raise UserError(f"{families.name}: the name '{key}' is taken; choose another.")
            taken.add(key)
    return found


def every_generated_set() -> dict[str, GeneratedSet]:
    """Those of generated.yaml, then those of the families."""
    return generated_sets() | {k: s for sets in family_sets().values() for k, s in sets.items()}


@cache
def _read(families: Path) -> Any:
    return parse_yaml(families.read_text(encoding="utf-8"), families.name)


def _class(given: Class, varies: str, templates: list[str]) -> ClassGrammar:
    if isinstance(given, str):
        given = {"slots": {varies: given}}
    elif isinstance(given, list):
        given = {"templates": given}
    return ClassGrammar.model_validate({"templates": templates} | given)


def _either(labels: list[str]) -> str:
    return f"{', '.join(labels[:-1])} or {labels[-1]}"
