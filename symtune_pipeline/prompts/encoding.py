"""A tokenizer as a model meets it in a prompt: what stands before a text, and text that stays text.

Before a text comes what `tokenizer(text)` puts there, such as Gemma's <bos>; what it puts after one is
left out, since a prompt goes on. Inside a text nothing is a control token: '<|im_end|>' in a review is
ten characters that somebody wrote. A chat template's control tokens therefore have names that no text
holds (`as_control`). This module knows nothing about prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from symtune_pipeline.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

BATCH = 1_000  # texts tokenised at a time
PROBES: Final = ("x", "0", "the")  # a word that every tokenizer should know is among them

# Vocabularies mark some control tokens as special and others, as Qwen's <tool_call>, only by their
# spelling. Gemma has the tags of HTML as tokens of text.
_SPELLED_AS_CONTROL: Final = re.compile(r"<.+>|\[.+\]", re.DOTALL)
# A special token may also be a mark or a word of text, as where "!" pads.
_WORD_IN_MARKS: Final = re.compile(r"[^\w\s].*\w.*[^\w\s]", re.DOTALL)
_HTML: Final = re.compile(
    r"</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|s|sub|sup"
    r"|code|p|br|ul|ol|li|a|img|span|div)>"
)


class TextEncoder:
    """Turns texts into token ids; `before` are the ids that stand before a text of its own."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: bool = False) -> None:
        """With `chat`, texts stand in a chat template, which writes what stands before them too.

        Raises UserError for a tokenizer without a tokenizer.json, or that makes nothing of a word.
        """
        if not tokenizer.is_fast:
            raise UserError(
                f"The tokenizer of {_name(tokenizer)} is a {type(tokenizer).__name__}, which cannot say"
                " where in a text its tokens are; save it as a tokenizer.json or leave the model out."
            )
        self.before: list[int] = [] if chat else _before(tokenizer)
        self.backend, self._hidden = _without_control_tokens(tokenizer)
        self.backend.encode_special_tokens = not chat  # which would not find them by these names

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without those before it."""
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return [
            encoding.ids
            for batch in batches
            # Without the tokens' places, which take more time and memory than the tokens.
            for encoding in self.backend.encode_batch_fast(list(batch), add_special_tokens=False)
        ]

    def encodings(self, texts: Sequence[str]) -> list[Encoding]:
        """Each text's `ids`, and in `offsets` each token's first character and the one after."""
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    def as_control(self, text: str) -> str:
        """A chat template's text, where every control token that it spells has its hidden name."""
        longest_first = sorted(self._hidden, key=len, reverse=True)
        spelled = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        return spelled.sub(lambda found: self._hidden[found[0]], text)

    def vocabulary(self) -> list[str]:
        """The tokens that a text can become, as the tokenizer spells them."""
        return [token for token in self.backend.get_vocab() if not token.startswith(_HIDDEN)]

    def words(self, text: str) -> list[str]:
        """The words that a text is split into before tokens are looked for in each of them.

        In the spelling of the vocabulary, in which a space is 'Ġ' or '▁' for example.
        """
        if self.backend.normalizer is not None:
            text = self.backend.normalizer.normalize_str(text)
        if self.backend.pre_tokenizer is None:
            return [text]
        return [word for word, _ in self.backend.pre_tokenizer.pre_tokenize_str(text)]


def _before(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the tokenizer puts before a text."""
    for probe in PROBES:
        read = tokenizer(probe, return_special_tokens_mask=True)
        ids, special = read["input_ids"], read["special_tokens_mask"]
        if not all(special):
            return [token for token, _ in takewhile(lambda pair: pair[1], zip(ids, special))]  # noqa: B905
    raise UserError(
        f"The tokenizer of {_name(tokenizer)} makes no token of {', '.join(map(repr, PROBES))}; it is"
        " damaged, so copy the model again or leave it out."
    )


_HIDDEN: Final = "\0control token "  # before a name that a text could hold; no text holds a NUL


def _without_control_tokens(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Tokenizer, dict[str, str]]:
    """A copy that finds no control token in a text, and the names that it knows these by.

    Special tokens are not looked for once the copy is told so. The model below could still find one
    (that of a Unigram takes '<s>' for a word of its vocabulary), so it knows them by other names.
    """
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    hidden = {}
    for token in state["added_tokens"]:
        content = token["content"]
        token["special"] = _is_control(content, token["special"])
        if token["special"]:
            token["content"] = hidden[content] = f"{_HIDDEN}{content}"
    _rename(state["model"], hidden)
    # Of these, one would cut the offsets of tokens, and the others a text.
    state |= {"post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(state)), hidden


def _is_control(token: str, special: bool) -> bool:
    """Whether an added token steers a model; others are white space, words, marks, tags of HTML."""
    if special:
        return _WORD_IN_MARKS.fullmatch(token) is not None
    return bool(_SPELLED_AS_CONTROL.fullmatch(token)) and not _HTML.fullmatch(token)


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Rename tokens in the vocabulary of a tokenizer's model, which then makes them of no text."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram's: words with their scores, known by their places
        model["vocab"] = [[names.get(word, word), score] for word, score in vocabulary]
        return
    present = names.keys() & vocabulary.keys()
    for name in present:
        vocabulary[names[name]] = vocabulary.pop(name)
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if present and "merges" in model:
        model["merges"] = [
            pair for pair in model["merges"] if present.isdisjoint((*pair, "".join(pair)))
        ]


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"'{tokenizer.name_or_path}'"
