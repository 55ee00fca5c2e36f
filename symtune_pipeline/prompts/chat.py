"""A chat template: what it writes around the one message of a user that a prompt is."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Final

from symtune_pipeline.errors import UserError, brief

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for a prompt; a template that escapes a message or shortens it changes this one.
MESSAGE: Final = 'Is "a" <b> & \\c?\nOutput:'
ANSWER: Final = "b & c"
THINKING: Final = "<think>", "</think>"
# Some templates write the day on which they are rendered, and the same inputs must give the same bytes.
# It is the day that Llama 3's template falls back on.
DAY: Final = date(2024, 7, 26)
DIRECTIVES: Final = ("%A", "%B", "%H", "%M", "%S", "%Y", "%a", "%b", "%d", "%m", "%y")


def chat_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the template writes before a user's message, and after it up to where the answer begins.

    Raises UserError for a tokenizer without a template, and for a template that takes no such message
    alone or does not write it as it is.
    """
    name = f"'{tokenizer.name_or_path}'"
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer of {name} has no chat template, which evaluation.chat_template asks for;"
            " switch that off or take an instruction-tuned model."
        )
    try:
        text = _rendered(tokenizer, [{"role": "user", "content": MESSAGE}])
    except Exception as error:  # a template may raise what it likes
        raise UserError(
            f"The chat template of {name} does not take one message of a user ({brief(error)}); switch"
            " evaluation.chat_template off or take another model."
        ) from error
    before, *after = text.split(MESSAGE)
    if len(after) == 1 and after[0].count(THINKING[0]) > after[0].count(THINKING[1]):
        raise UserError(
            f"The chat template of {name} lets the model think before it answers, and answers are read from"
            " their first token on; switch evaluation.chat_template off or take another model."
        )
    if len(after) != 1:
        raise UserError(
            f"The chat template of {name} does not write a user's message as it is; switch"
            " evaluation.chat_template off or take another model."
        )
    return before, after[0]


def answer_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes after the model's answer; nothing where it writes no answer as it is."""
    turns = [{"role": "user", "content": MESSAGE}, {"role": "assistant", "content": ANSWER}]
    try:
        return _rendered(tokenizer, turns).partition(ANSWER)[2]
    except Exception:  # as above; the template has taken the message alone
        return ""


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    """The template's text of the turns, up to where an answer begins where they end with a message."""
    text = tokenizer.apply_chat_template(
        turns,
        chat_template=_on_a_fixed_day(tokenizer.get_chat_template()),
        tokenize=False,
        add_generation_prompt=len(turns) == 1,
        enable_thinking=False,  # which templates of models that do not think ignore
    )
    return str(text)


def _on_a_fixed_day(template: str) -> str:
    """The template, for which it is always the same day."""
    if "strftime_now" not in template:
        return template
    day = "".join(f" | replace('{part}', '{DAY.strftime(part)}')" for part in DIRECTIVES)
    # Jinja takes away the end of this line, and then begins the template at the start of one.
    return f"{{% macro strftime_now(format) %}}{{{{ format{day} }}}}{{% endmacro %}}\n{template}"
