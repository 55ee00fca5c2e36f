"""The sentence about a setting that there is not: which one was meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

UNKNOWN = "extra_forbidden"  # as pydantic calls it


def unknown_setting(where: Sequence[str], schema: Mapping[str, Any]) -> str:
    """What is wrong with the setting that the names `where` lead to, which `schema` does not have.

    The nearest name of its section, else the section that has a setting of this name, else the names
    that its section has.
    """
    names = list(_section(schema, where[:-1]).get("properties", ()))
    if near := nearest(where[-1], names):
        return f"unknown setting (did you mean '{near}'?)"
    paths = list(_paths(schema))
    if elsewhere := nearest(where[-1], map(_name, paths)):
        meant = " or ".join(f"'{path}'" for path in paths if _name(path) == elsewhere)
        return f"unknown setting (did you mean {meant}?)"
    return f"unknown setting (known: {', '.join(names)})"


def missing_kind(name: str, settings: Mapping[Any, Any]) -> str:
    """What is wrong with settings that lack `name`, on which their other names depend."""
    near = [str(key) for key in settings if nearest(str(key), [name])]
    hint = f", and '{near[0]}' is unknown (did you mean '{name}'?)" if near else ""
    return f"a required setting is missing{hint}"


def nearest(name: str, among: Iterable[str]) -> str | None:
    """The known name that a misspelled one is nearest to, None where none is near."""
    by_plain = {_plain(known): known for known in among}
    near = get_close_matches(_plain(name), by_plain, n=1)
    return by_plain[near[0]] if near else None


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _plain(name: str) -> str:
    """Without what is easily mistaken: capitals, dashes and spaces."""
    return name.lower().replace("-", "_").replace(" ", "_")


def _section(schema: Mapping[str, Any], where: Sequence[str]) -> Mapping[str, Any]:
    """The part of a JSON schema where names lead to: settings, a set's name, a launcher's kind."""
    found = _resolved(schema, schema)
    for part in where:
        kinds = found.get("discriminator", {}).get("mapping", {})
        names = found.get("properties", {}) | {k: {"$ref": ref} for k, ref in kinds.items()}
        any_name = [*found.get("patternProperties", {}).values(), {}][0]
        found = _resolved(names.get(part, any_name), schema)
    return found


def _resolved(found: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference stands for; of what may be left out, what stands before null."""
    while "$ref" in found or "anyOf" in found:
        found = found.get("anyOf", [found])[0]
        found = schema["$defs"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found
    return found


def _paths(schema: Mapping[str, Any]) -> Iterator[str]:
    """Every setting whose place is fixed, as names with dots between them."""

    def inside(section: Mapping[str, Any], before: str) -> Iterator[str]:
        for name, described in section.get("properties", {}).items():
            yield from inside(_resolved(described, schema), f"{before}{name}.")
            yield f"{before}{name}"

    yield from inside(_resolved(schema, schema), "")
