"""What lies beside this module: templates of HTML, and scripts."""

from __future__ import annotations

from importlib.resources import files


def rendered(name: str, **values: object) -> str:
    """The template in a file of that name, filled; texts among the values are escaped."""
    import jinja2

    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(beside(name)).render(**values)


def beside(name: str) -> str:
    """The text of a file."""
    return (files(__package__) / name).read_text(encoding="utf-8")
