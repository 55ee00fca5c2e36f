"""The ten formats of a prompt."""

from __future__ import annotations

from functools import cache

from symtune_pipeline.catalog.facts import Fact, read_beside


class PromptFormat(Fact):
    """The text before an input and the text before a label."""

    name: str
    before_input: str
    before_label: str

    def reversed(self) -> PromptFormat:
        """The format in which the label comes first: each keeps its mark, and an arrow stays between."""
        if not self.before_input:
            return self
        mark = self.before_label.removeprefix("\n")
        return PromptFormat(
            name=self.name, before_input=mark, before_label=f"\n{self.before_input}"
        )


@cache
def prompt_formats() -> tuple[PromptFormat, ...]:
    """The ten formats of the method; a format's number is its place here."""
    return tuple(PromptFormat(**entry) for entry in read_beside(__file__))
