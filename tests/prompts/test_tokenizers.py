"""Whatever the tokenizer: a prompt has the tokens of its whole string, and its labels those that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from tokenizer_kinds import (
    ALSO_CONTROL,
    CONTROL,
    INPUTS,
    INSTRUCTIONS,
    KINDS,
    LABELS,
    STARTS,
    odd_rows,
    read,
    small_tokenizer,
)

from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts.blocks import packed_blocks
from symtune_pipeline.prompts.symbols import (
    SymbolSampler,
    first_tokens,
    shared_token_sequences,
)
from symtune_pipeline.prompts.targets import QUERY
from symtune_pipeline.prompts.text import Segment, label_text, render, segments
from symtune_pipeline.prompts.tokens import SegmentTokenizer
from symtune_pipeline.tables import TUNING_MIXTURE

STYLES = range(10)
EVERY_TOKENIZER = [(kind, start) for kind in KINDS for start in STARTS]


@pytest.fixture(params=EVERY_TOKENIZER, ids=lambda pair: "-".join(pair), scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return small_tokenizer(*request.param)


def _prompt(row: dict[str, Any], inputs: Any = INPUTS) -> list[Segment]:
    labels = [row["labels"][target] for target in row["targets"]]
    instruction = INSTRUCTIONS[int(row["dataset"].split()[1])] if row["instructed"] else None
    return segments(row["format"], [inputs[e] for e in row["examples"]], labels, instruction)


def _sequences(
    rows: list[dict[str, Any]], tokenizer: Any, size: int = 400, inputs: Any = INPUTS
) -> list[tuple[list[int], dict[int, int]]]:
    """The prompts in the blocks: tokens, and the kind of each target by its position."""
    instructions = {f"set {i}": text for i, text in enumerate(INSTRUCTIONS)}
    mixture = TUNING_MIXTURE.frame(rows)
    found = []
    for block in pl.concat(
        packed_blocks([mixture], pl.Series(inputs), instructions, tokenizer, size)
    ).iter_rows(named=True):
        assert len(block["tokens"]) == sum(block["sequence_lengths"]) <= size
        kinds = dict(zip(block["target_positions"], block["target_kinds"], strict=True))
        start = 0
        for length in block["sequence_lengths"]:
            inside = {p - start: kinds.pop(p) for p in range(start, start + length) if p in kinds}
            found.append((block["tokens"][start : start + length], inside))
            start += length
        assert not kinds
    return found


def test_blocks_hold_what_the_tokenizer_makes_of_each_prompt(tokenizer: Any) -> None:
    rows = list(odd_rows(400))
    found = _sequences(rows, tokenizer)
    expected = [read(tokenizer, render(_prompt(row))) for row in rows]
    assert sorted(tokens for tokens, _ in found) == sorted(expected)
    begin = tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    assert all((tokens[0] == tokenizer.bos_token_id) == begin for tokens, _ in found)
    assert not any(0 in targets for _, targets in found)


def test_the_last_targets_are_the_tokens_that_follow_the_prompt(tokenizer: Any) -> None:
    rows = list(odd_rows(150))
    by_tokens = {tuple(tokens): targets for tokens, targets in _sequences(rows, tokenizer)}
    tried = 0
    for row in rows:
        *before, label = _prompt(row)
        tokens, prompt = (read(tokenizer, render(part)) for part in ([*before, label], before))
        if tokens[: len(prompt)] == prompt:
            targets = by_tokens[tuple(tokens)]
            query = [position for position, kind in targets.items() if kind == QUERY]
            assert query == list(range(len(prompt), len(tokens))), label
            tried += 1
    # Only where tokens reach across spaces does a label change the prompt's last one.
    assert tried == len(rows) or "t:▁" in tokenizer.get_vocab()


def test_each_target_holds_a_part_of_a_label_and_no_label_lacks_one(tokenizer: Any) -> None:
    """By the places of tokens in the text, which the tokenizer itself gives."""
    rows = list(odd_rows(100))
    by_tokens = {tuple(tokens): set(targets) for tokens, targets in _sequences(rows, tokenizer)}
    for row in rows:
        prompt = _prompt(row)
        text = render(prompt)
        encoding = tokenizer(text, return_offsets_mapping=True)
        targets = by_tokens[tuple(read(tokenizer, text))]
        end = 0
        for segment in prompt:
            start, end = end, end + len(segment.text)
            word = {
                i
                for i, (a, b) in enumerate(encoding["offset_mapping"])
                if a < b and b > start + 1 and a < end and not text[a:b].isspace()
            }
            if segment.role.value == "label":
                assert word and word <= targets
            else:
                inside = {i for i in word if encoding["offset_mapping"][i][1] <= end}
                assert (
                    not {i for i in inside if encoding["offset_mapping"][i][0] >= start} & targets
                )


def test_a_scored_label_has_the_tokens_that_follow_the_prompt(tokenizer: Any) -> None:
    by_segment = SegmentTokenizer(tokenizer)
    for row in odd_rows(60):
        prompt = _prompt(row)[:-1]
        tokens, labels = by_segment.continuations(prompt, LABELS)
        for label, found in zip(LABELS, labels, strict=True):
            assert tokens + found == read(tokenizer, render(prompt) + label_text(label))
        alone = read(tokenizer, render(prompt))
        assert tokens and tokens == alone[: len(tokens)]


def test_a_prompt_above_a_blocks_length_loses_exemplars_and_keeps_its_start(tokenizer: Any) -> None:
    rows = list(odd_rows(60))
    whole = [tokens for tokens, _ in _sequences(rows, tokenizer)]
    size = max(map(len, whole)) - 1
    found = _sequences(rows, tokenizer, size)
    assert len(found) == len(rows)
    lost = [(tokens, targets) for tokens, targets in found if tokens not in whole]
    assert lost
    start = tokenizer("x", return_special_tokens_mask=True)["special_tokens_mask"].index(0)
    for tokens, targets in lost:
        assert tokens[:start] == [tokenizer.bos_token_id] * start
        assert QUERY in targets.values()


SPELLED = (
    "the end<|im_end|>", "<s>", "</s> a", f"a{ALSO_CONTROL}b", f"{ALSO_CONTROL}", "<unk>", "a <s>b",
    "<|im_end|>\n<|im_end|>", "x</s>", "[INST]",
)  # fmt: skip


def test_a_control_token_spelled_in_a_text_stays_text(tokenizer: Any) -> None:
    """No control token but the first, even where the tokenizer's own model would find one."""
    control = {*tokenizer.convert_tokens_to_ids(list(CONTROL[1:])), len(tokenizer) - 1}
    assert control >= {tokenizer.convert_tokens_to_ids(ALSO_CONTROL), tokenizer.bos_token_id}
    inputs = SPELLED
    rows = [row | {"examples": [e % len(inputs) for e in row["examples"]]} for row in odd_rows(100)]
    for tokens, _ in _sequences(rows, tokenizer, 800, inputs):
        assert not control & set(tokens[1:])
    by_segment = SegmentTokenizer(tokenizer)
    for label in SPELLED:
        prompt, [found] = by_segment.continuations(segments(0, [label], []), [label])
        assert not control & {*prompt[1:], *found}
        assert found


def test_a_token_of_the_vocabulary_that_is_no_control_token_stays_one() -> None:
    """Runs of white space, tags of HTML and words that were added, as Gemma and Pythia have them."""
    from transformers import PreTrainedTokenizerFast

    backend = type(small_tokenizer("gpt2").backend_tokenizer).from_str(
        small_tokenizer("gpt2").backend_tokenizer.to_str()
    )
    backend.add_tokens(["\n\n\n", "   ", "<table>", "brandnew"])
    backend.add_special_tokens(["\t\t", "!"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]
    by_segment = SegmentTokenizer(tokenizer)
    for text in ("a\n\n\nb", "a   b", "<table> a", "a brandnew b", "a\t\tb", "oh!! a\t\t!"):
        prompt = segments(1, [text, text], ["FOO"], text)
        assert by_segment.tokens(prompt) == read(tokenizer, render(prompt))
        assert by_segment.tokens(prompt) != read(small_tokenizer("gpt2"), render(prompt))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "superword"])
def test_symbols_differ_in_the_first_token_that_follows_a_prompt(
    kind: str, symbols: pl.DataFrame
) -> None:
    tokenizer = small_tokenizer(kind, "begin")
    some = symbols.filter(pl.int_range(pl.len()).over("split", "category") < 300)
    tuning = some.filter(split="tuning")["symbol"].to_list()
    [first] = first_tokens(some, [tokenizer])
    before = "Input: a\nOutput:"
    for symbol, token in zip(tuning, first, strict=True):
        prompt, whole = (read(tokenizer, text) for text in (before, f"{before} {symbol}"))
        assert token == whole[len(prompt)], symbol
    assert len(set(first)) > 10
    drawn = SymbolSampler(some, "tuning", first[None]).draw(50, 3, np.random.default_rng(0))
    of_symbol = dict(zip(tuning, first, strict=True))
    assert all(len({of_symbol[symbol] for symbol in row}) == 3 for row in drawn)
    same = shared_token_sequences(some, tokenizer)
    known = {tuple(read(tokenizer, f"{before} {symbol}")) for symbol in tuning}
    evaluation = some.filter(split="evaluation")["symbol"]
    assert same == [x for x in evaluation if tuple(read(tokenizer, f"{before} {x}")) in known]


def test_a_rare_junction_is_found_among_many_prompts_that_compose() -> None:
    """One prompt of ten thousand ends an instruction as Llama 3's pattern joins it."""
    tokenizer = small_tokenizer("llama3")
    rows = [row | {"instructed": False} for row in odd_rows(3_000)]
    rows[2_998] |= {"format": 8, "instructed": True, "dataset": "set 0"}
    tokens = [found for found, _ in _sequences(rows, tokenizer)]
    expected = read(tokenizer, render(_prompt(rows[2_998])))
    assert expected in tokens
    joined = SegmentTokenizer(tokenizer)
    assert not joined.composes(_prompt(rows[2_998]))
    composing = sum(joined.composes(_prompt(row)) for row in rows)
    assert composing > 1_500, "such a tokenizer must not lose its speed"


@pytest.mark.parametrize("kind", ["gpt2", "wordpiece", "gemma"])
def test_ordinary_prompts_are_composed(kind: str) -> None:
    by_segment = SegmentTokenizer(small_tokenizer(kind, "begin"))
    inputs = ["a good day", "Bad days, again.", "What now?"]
    for style in STYLES:
        prompt = segments(style, inputs, ["FOO", "17"], "Is the day good?")
        assert by_segment.composes(prompt), style


def test_a_tokenizer_that_cannot_say_where_tokens_are_is_one_sentence() -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(
        UserError, match=r"is a ByT5Tokenizer, which .*; save it as a tokenizer\.json"
    ):
        SegmentTokenizer(ByT5Tokenizer())  # type: ignore[no-untyped-call]


def test_a_label_without_tokens_is_one_sentence() -> None:
    rows = [row | {"labels": ["FOO", "\u2028"], "instructed": False} for row in odd_rows(1)]
    with pytest.raises(
        UserError, match=r"The label '\\u2028' in prompt 0 of dataset 'set 4' has no"
    ):
        _sequences(rows, small_tokenizer("wordpiece"))
