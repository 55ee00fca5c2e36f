"""A prompt in a chat template has the tokens that transformers gives a chat of one message."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import polars as pl
import pytest
from tokenizer_kinds import INPUTS, INSTRUCTIONS, KINDS, LABELS, odd_rows, small_tokenizer

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.blocks import packed_blocks
from symtune_pipeline.prompts.symbols import first_tokens
from symtune_pipeline.prompts.targets import QUERY
from symtune_pipeline.prompts.text import Segment, render, segments
from symtune_pipeline.prompts.tokens import SegmentTokenizer
from symtune_pipeline.tables import TUNING_MIXTURE

TEMPLATES = {
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # These begin with BOS, which their tokenizers put before a text as well.
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    # Its marks are text, and join the words beside them.
    "llama2": "{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]",
    # Its space at the end becomes one token with the label's first letter, or with all of it.
    "vicuna": "{{ bos_token }}USER: {{ messages[0]['content'] }} ASSISTANT: ",
    # A label follows a control token.
    "phi": "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|><|eot_id|>{% endfor %}",
}
CONTROL = ["<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPELLED = ("the end<|im_end|>", "<s>", "a <|im_start|>user", "</s><|eot_id|>", "<tool_call>")


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, template: str) -> Any:
    return with_template(request.param, TEMPLATES[template])


def with_template(kind: str, template: str | None) -> Any:
    """A tokenizer that puts <s> before a text, with a chat template and the tokens of all of them."""
    tokenizer = deepcopy(small_tokenizer(kind, "begin"))
    tokenizer.add_special_tokens({"extra_special_tokens": [*CONTROL, "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def chat(tokenizer: Any, message: str, answer: str = "", **options: Any) -> list[int]:
    """What transformers makes of a user's message and the beginning of the answer."""
    asked = [{"role": "user", "content": message}]
    if not answer:
        ids: list[int] = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_dict=False, **options
        )
        return ids
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text + answer, add_special_tokens=False)["input_ids"]
    return ids


def _asked(row: dict[str, Any], inputs: Sequence[str] = INPUTS, **frame: Any) -> list[Segment]:
    """A prompt up to where the query's label comes."""
    labels = [row["labels"][target] for target in row["targets"][:-1]]
    instruction = INSTRUCTIONS[int(row["dataset"].split()[1])] if row["instructed"] else None
    texts = [inputs[e] for e in row["examples"]]
    return segments(row["format"], texts, labels, instruction, **frame)


def test_a_prompt_and_the_labels_after_it_have_the_tokens_of_the_whole_string(
    tokenizer: Any,
) -> None:
    by_segment = SegmentTokenizer(tokenizer, chat=True)
    for row in odd_rows(60):
        message = render(_asked(row))
        prompt = _asked(row, frame=by_segment.frame)
        assert by_segment.tokens(prompt) == chat(tokenizer, message)
        tokens, labels = by_segment.continuations(prompt, LABELS)
        for label, found in zip(LABELS, labels, strict=True):
            assert tokens + found == chat(tokenizer, message, label)


def test_blocks_hold_what_transformers_makes_of_each_chat(tokenizer: Any) -> None:
    rows = list(odd_rows(150))
    instructions = {f"set {i}": text for i, text in enumerate(INSTRUCTIONS)}
    blocks = pl.concat(
        packed_blocks(
            [TUNING_MIXTURE.frame(rows)], pl.Series(INPUTS), instructions, tokenizer, 500, chat=True
        )
    )
    found = {}
    for block in blocks.iter_rows(named=True):
        kinds = dict(zip(block["target_positions"], block["target_kinds"], strict=True))
        end = 0
        for length in block["sequence_lengths"]:
            start, end = end, end + length
            query = [p - start for p in range(start, end) if kinds.get(p) == QUERY]
            found[tuple(block["tokens"][start:end])] = query
    for row in rows:
        message, label = render(_asked(row)), row["labels"][row["targets"][-1]]
        whole, asked = chat(tokenizer, message, label), chat(tokenizer, message)
        query = found.pop(tuple(whole))
        assert query and query[-1] == len(whole) - 1
        if whole[: len(asked)] == asked:
            assert query[0] == len(asked)
    assert not found


def test_a_control_token_spelled_in_a_message_stays_text(tokenizer: Any, template: str) -> None:
    by_segment = SegmentTokenizer(tokenizer, chat=True)
    names = [*CONTROL, "<|im_end|>", "<s>", "</s>", "<tool_call>"]
    control = set(tokenizer.convert_tokens_to_ids(names))
    written = [token for token in chat(tokenizer, "x") if token in control]
    assert written
    for row in odd_rows(30, SPELLED):
        prompt = _asked(row, SPELLED, frame=by_segment.frame)
        tokens, labels = by_segment.continuations(prompt, SPELLED)
        assert [token for token in tokens if token in control] == written
        assert all(found and not control & set(found) for found in labels)


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "metaspace"])
def test_text_that_spells_control_tokens_is_tokenised_as_transformers_sanitises_it(
    kind: str, template: str
) -> None:
    tokenizer = with_template(kind, TEMPLATES[template])
    tokenizer.chat_control_tokens = ["<tool_call>"]
    by_segment = SegmentTokenizer(tokenizer, chat=True)
    for row in odd_rows(30, SPELLED):
        tokens = by_segment.tokens(_asked(row, SPELLED, frame=by_segment.frame))
        message = render(_asked(row, SPELLED))
        assert tokens == chat(tokenizer, message, sanitize_control_tokens=True)


def test_ordinary_prompts_are_composed() -> None:
    for name in ("chatml", "llama3"):
        by_segment = SegmentTokenizer(with_template("llama3", TEMPLATES[name]), chat=True)
        prompt = segments(0, ["a good day", "What now?"], ["FOO", "17"], None, by_segment.frame)
        assert by_segment.composes(prompt)


def test_first_tokens_are_those_in_the_message_and_those_of_the_answer(
    symbols: pl.DataFrame,
) -> None:
    some = symbols.filter(pl.int_range(pl.len()).over("split", "category") < 50)
    tokenizer = with_template("gpt2", TEMPLATES["chatml"])
    inside, answered = first_tokens(some, [tokenizer], chat=True)
    assert inside.tolist() == first_tokens(some, [tokenizer])[0].tolist()
    asked = chat(tokenizer, "x")
    for symbol, token in zip(some.filter(split="tuning")["symbol"], answered, strict=True):
        assert token == chat(tokenizer, "x", symbol)[len(asked)]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (
            None,
            r"'' has no chat template, which evaluation\.chat_template asks for; switch that off",
        ),
        (
            "{{ raise_exception('Give a system.') }}",
            r"one message of a user .*Give a system\); switch",
        ),
        (
            "{{ messages[0]['content'] | tojson }}",
            "does not write a user's message as it is; switch",
        ),
        ("{{ bos_token }}", "does not write a user's message as it is; switch"),
        ("{{ messages[0]['content'] * 2 }}", "does not write a user's message as it is; switch"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_sentence(
    template: str | None, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        SegmentTokenizer(with_template("gpt2", template), chat=True)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_template_that_writes_the_day_writes_the_same_one_every_day() -> None:
    dated = "\n  Today: {{ strftime_now('%d %b %Y, %Y-%m-%d') }}\n{{ messages[0]['content'] }}"
    found = SegmentTokenizer(with_template("gpt2", dated), chat=True)
    assert found.frame.opening == "\n  Today: 26 Jul 2024, 2024-07-26\n"
