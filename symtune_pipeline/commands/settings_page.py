"""Writes docs/settings.md: every setting of an experiment, from the schema that checks them.

python -m symtune_pipeline.commands.settings_page > docs/settings.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from symtune_pipeline.experiment import Experiment

Schema = Mapping[str, Any]
INTRODUCTION = """\
# Every setting of an experiment

For everyone who writes an experiment. Example: `mixture: {prompts: 500}` sets `mixture.prompts`.

An experiment is a YAML file: one of those in `experiments/`, or your own. Choose it by name or path with
`SYMTUNE_EXPERIMENT` or `--experiment`. You may leave out settings that have a default; settings marked
*needed* have none. The meaning of a setting says what happens while it is *not set*. An unknown setting is
an error, which suggests the nearest name. `make docs-settings` writes this page from the code that checks
the settings.
"""
# What JSON Schema calls a bound, and what we say.
BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "from",
    "exclusiveMaximum": "and below",
    "maximum": "to",
}
FROM_FILE = {"name": "the file's"}  # filled in where the file is read
KINDS = {"integer": "whole number", "number": "number", "string": "text"}


def settings_page() -> str:
    """The page in Markdown."""
    schema = Experiment.model_json_schema()
    parts = [INTRODUCTION, *_section("", schema, schema["$defs"])]
    return "\n".join(parts)


def _section(above: str, section: Schema, defs: Schema) -> Iterator[str]:
    """A table of the settings in a section, then the sections in it."""
    inner: dict[str, Schema] = {}
    rows = ["| setting | values | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in section["properties"].items():
        path, one = f"{above}{name}", _one(field)
        named = [*one.get("patternProperties", {}).values()]
        if "$ref" in one:
            inner[path] = one
        elif named:
            inner[f"{path}.<name>"] = named[0]
        if "description" in field:
            default = FROM_FILE.get(path) or _default(field)
            meaning = field["description"].replace("|", r"\|")
            rows.append(f"| `{path}` | {values(field)} | {default} | {meaning} |")
    yield "\n".join(rows) + "\n"
    for path, reference in inner.items():
        found = defs[reference["$ref"].rpartition("/")[2]]
        yield f"## `{path}`\n\n{' '.join(found['description'].split())}\n"
        yield from _section(f"{path}.", found, defs)


def values(field: Schema) -> str:
    """What a setting may be, in plain words."""
    several = [each for each in field.get("anyOf", ()) if each.get("type") != "null"]
    if len(several) > 1:
        return _either([values(each) for each in several])
    field = _one(field)
    if "const" in field or "enum" in field:
        return _either([f"`{value}`" for value in field.get("enum") or [field["const"]]])
    if field.get("type") == "boolean":
        return "`true` or `false`"
    if "prefixItems" in field:
        return "two: " + ", ".join(values(each) for each in field["prefixItems"])
    if "items" in field:
        return f"list of: {values(field['items'])}{_least(field)}"
    if "$ref" in field or "patternProperties" in field:
        return "settings, see below"
    if field.get("additionalProperties") is True:
        return "settings by name"
    if field.get("type") == "object":
        keys = values(field["propertyNames"]) if "propertyNames" in field else "text"
        return f"mapping of {keys} to {values(field['additionalProperties'])}{_least(field)}"
    if field.get("format") == "path":
        return "path"
    if field["type"] == "integer" and "exclusiveMinimum" in field:
        bound = {"minimum": field["exclusiveMinimum"] + 1}
        field = {key: field[key] for key in field if key != "exclusiveMinimum"} | bound
    bounds = [f"{word} {field[key]:,}" for key, word in BOUNDS.items() if key in field]
    return " ".join([KINDS[field["type"]], *bounds])


def _one(field: Schema) -> Schema:
    """The field without `null`, which stands for leaving it out."""
    return next((each for each in field.get("anyOf", ()) if each.get("type") != "null"), field)


def _least(field: Schema) -> str:
    least = field.get("minItems") or field.get("minProperties")
    return f"; at least {least}" if least else ""


def _default(field: Schema) -> str:
    if "default" not in field:
        return "*needed*"
    value = field["default"]
    if value is None or value in ([], {}):
        return "not set"
    if isinstance(value, dict):
        return "see below"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


if __name__ == "__main__":
    print(settings_page(), end="")
