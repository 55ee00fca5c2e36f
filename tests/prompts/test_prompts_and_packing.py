"""What a prompt looks like, and prompts as token blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.catalog.formats import prompt_formats
from symtune_pipeline.errors import UserError
from symtune_pipeline.prompts import blocks as packing
from symtune_pipeline.prompts.blocks import TooLong, fill, packed_blocks
from symtune_pipeline.prompts.mixture import mixture_chunks
from symtune_pipeline.prompts.symbols import SymbolSampler
from symtune_pipeline.prompts.targets import FIRST, QUERY, SEEN
from symtune_pipeline.prompts.text import Role, Segment, render, segments, tuning_prompt
from symtune_pipeline.prompts.tokens import SegmentTokenizer
from symtune_pipeline.sections import MixtureConfig
from symtune_pipeline.tables import PACKED_MIXTURE, TUNING_MIXTURE

# The ten formats of the method, in its order: one exemplar, then the query without its label.
RENDERED = (
    "Input: good day\nOutput: FOO\n\nInput: bad day\nOutput:",
    "Input: good day\nTarget: FOO\n\nInput: bad day\nTarget:",
    "Input: good day\nSymbol: FOO\n\nInput: bad day\nSymbol:",
    "Input: good day\nLabel: FOO\n\nInput: bad day\nLabel:",
    "Question: good day\nAnswer: FOO\n\nQuestion: bad day\nAnswer:",
    "Student: good day\nTeacher: FOO\n\nStudent: bad day\nTeacher:",
    "X = good day\nY = FOO\n\nX = bad day\nY =",
    "Q: good day\nA: FOO\n\nQ: bad day\nA:",
    "good day -> FOO\n\nbad day ->",
    "Sentences: good day\nMapped To: FOO\n\nSentences: bad day\nMapped To:",
)
FORMATS = range(len(RENDERED))
BLOCK = 400
INSTRUCTIONS = {key: entry.instruction for key, entry in all_datasets().items()} | {
    "some": "Say it."
}


def _packed(
    mixture: pl.DataFrame, inputs: pl.Series, tokenizer: Any, block_tokens: int
) -> pl.DataFrame:
    return pl.concat(packed_blocks([mixture], inputs, INSTRUCTIONS, tokenizer, block_tokens))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module")
def inputs(tuning_examples: pl.DataFrame) -> pl.Series:
    return tuning_examples.sort("example")["input"]


@pytest.fixture(scope="module")
def mixture(tuning_examples: pl.DataFrame, symbols: pl.DataFrame) -> pl.DataFrame:
    config = MixtureConfig(prompts=120, exemplars_per_class=(2, 5), instructed_share=0.2)
    return pl.concat(mixture_chunks(tuning_examples, SymbolSampler(symbols, "tuning"), config, 0))


@pytest.fixture(scope="module")
def prompts(mixture: pl.DataFrame, inputs: pl.Series) -> list[list[Segment]]:
    """Each prompt of the mixture once in every format."""
    return [
        segments(
            style,
            [inputs[e] for e in row["examples"]],
            [row["labels"][target] for target in row["targets"]],
            INSTRUCTIONS[row["dataset"]] if row["instructed"] else None,
        )
        for row in mixture.head(20).iter_rows(named=True)
        for style in FORMATS
    ]


@pytest.fixture(scope="module")
def merging() -> Any:
    """A tokenizer whose merges cross every kind of boundary between a prompt's segments."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    merges = [
        (":", " "), ("A", ": "), ("\n", "A: "),  # label prefix and the space of the label
        ("\n", "\n"), ("\n\n", "Q"),
        ("y", "\n"),  # end of an input and label prefix
        ("B", "\n\n"),  # end of a label and separator
        ("=", " "), (">", " "), ("->", " "), (" ", "->"), ("-", ">"),
    ]  # fmt: skip
    tokens = [chr(i) for i in range(32, 127)] + ["\n"] + [a + b for a, b in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("style", FORMATS)
def test_a_prompt_looks_as_the_method_says(style: int) -> None:
    assert render(segments(style, ["good day", "bad day"], ["FOO"])) == RENDERED[style]


def test_there_are_ten_formats() -> None:
    assert len(prompt_formats()) == len(set(RENDERED)) == 10


@pytest.mark.parametrize("style", FORMATS)
def test_a_tuning_prompt_ends_with_the_label_of_its_query(style: int) -> None:
    prompt = segments(style, ["good day", "bad day"], ["FOO", "BAR"])
    assert render(prompt) == RENDERED[style] + " BAR"
    labels = [(segment.text, segment.example) for segment in prompt if segment.role is Role.LABEL]
    assert labels == [(" FOO", 0), (" BAR", 1)]


@pytest.mark.parametrize("style", FORMATS)
def test_an_instruction_comes_once_before_everything(style: int) -> None:
    prompt = segments(style, ["good day", "bad day"], ["FOO"], "Is the day good?")
    assert render(prompt) == "Is the day good?\n\n" + RENDERED[style]
    assert [segment.role for segment in prompt].count(Role.INSTRUCTION) == 1


def test_composing_segments_equals_tokenising_the_whole_in_all_formats(
    prompts: list[list[Segment]], tokenizer: Any
) -> None:
    by_segment = SegmentTokenizer(tokenizer)
    for prompt in prompts:
        assert by_segment.composes(prompt)
        composed = [token for tokens in by_segment.segment_tokens(prompt) for token in tokens]
        assert composed == _ids(tokenizer, render(prompt))


@pytest.mark.parametrize("style", FORMATS)
def test_a_tokenizer_that_merges_across_segments_still_gives_the_whole(
    style: int, merging: Any
) -> None:
    labels = ["AB", "Q", "42", "y"]
    prompt = segments(style, ["a day", "Q: why", "-> y", "An A"], labels)
    by_segment = SegmentTokenizer(merging)
    assert not by_segment.composes(prompt)

    found = by_segment.segment_tokens(prompt)
    assert [token for tokens in found for token in tokens] == _ids(merging, render(prompt))
    of_labels = [
        merging.decode(tokens).strip()
        for segment, tokens in zip(prompt, found, strict=True)
        if segment.role is Role.LABEL
    ]
    assert of_labels == labels


def test_packing_with_a_tokenizer_that_merges_across_segments(merging: Any) -> None:
    inputs = pl.Series(["a day", "Q: why", "-> y", "An A"])
    targets, labels = [0, 1, 1, 0], ["AB", "Q"]
    mixture = TUNING_MIXTURE.frame(
        {
            "prompt": list(FORMATS),
            "dataset": ["some"] * len(FORMATS),
            "format": list(FORMATS),
            "examples": [[0, 1, 2, 3]] * len(FORMATS),
            "targets": [targets] * len(FORMATS),
            "labels": [labels] * len(FORMATS),
            "instructed": [style % 2 == 0 for style in FORMATS],
        }
    )
    blocks = _packed(mixture, inputs, merging, 500)
    found = [prompt for row in blocks.iter_rows(named=True) for prompt in _cut(row)]
    expected = [
        _ids(
            merging,
            render(
                segments(
                    style,
                    inputs.to_list(),
                    [labels[target] for target in targets],
                    INSTRUCTIONS["some"] if style % 2 == 0 else None,
                )
            ),
        )
        for style in FORMATS
    ]
    assert sorted(tokens for tokens, _ in found) == sorted(expected)
    for tokens, inside in found:
        text = merging.decode([tokens[position] for position, _ in inside])
        assert "".join(text.split()) == "ABQQAB"


def test_targets_are_the_labels_and_a_first_label_has_a_kind_of_its_own(tokenizer: Any) -> None:
    mixture = TUNING_MIXTURE.frame(
        {
            "prompt": [0],
            "dataset": ["some"],
            "format": [0],
            "examples": [[0, 1, 2, 3]],
            "targets": [[0, 1, 0, 1]],
            "labels": [["FOO", "17"]],
            "instructed": [False],
        }
    )
    [found] = _packed(
        mixture, pl.Series(["one", "two", "three", "four"]), tokenizer, 200
    ).to_dicts()
    foo, seventeen = (len(_ids(tokenizer, text)) for text in (" FOO", " 17"))
    assert (
        found["target_kinds"]
        == [FIRST] * foo + [FIRST] * seventeen + [SEEN] * foo + [QUERY] * seventeen
    )
    targets = [found["tokens"][position] for position in found["target_positions"]]
    assert tokenizer.decode(targets) == " FOO 17 FOO 17"
    assert (FIRST, SEEN, QUERY) == (0, 1, 2)


def test_classes_beyond_a_byte_are_no_other_prompts_classes(tokenizer: Any) -> None:
    """A class's first label has a kind of its own, whatever the numbers of classes and prompts."""
    targets = [0, 256, 257, 512, 256, 0]
    count = len(targets)
    mixture = TUNING_MIXTURE.frame(
        {
            "prompt": [0, 1, 2],
            "dataset": ["some"] * 3,
            "format": [0] * 3,
            "examples": [list(range(count))] * 3,
            "targets": [targets] * 3,
            "labels": [["A"] * 600] * 3,
            "instructed": [False] * 3,
        }
    )
    inputs = pl.Series(["text"] * count)
    [found] = _packed(mixture, inputs, tokenizer, 1_000).to_dicts()
    tokens = len(_ids(tokenizer, " A"))
    kinds = [kind for kind in [*[FIRST] * 4, SEEN, QUERY] for _ in range(tokens)]
    assert found["target_kinds"] == kinds * 3


def _cut(row: dict[str, Any]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """The prompts of a block: the tokens of each, and the position and kind of its targets."""
    found = []
    start = 0
    targets = list(zip(row["target_positions"], row["target_kinds"], strict=True))
    for length in row["sequence_lengths"]:
        inside = [
            (position - start, kind)
            for position, kind in targets
            if start <= position < start + length
        ]
        found.append((row["tokens"][start : start + length], inside))
        start += length
    assert start == len(row["tokens"])
    assert sum(len(inside) for _, inside in found) == len(targets)
    return found


def test_blocks_hold_every_prompt_exactly_once(
    mixture: pl.DataFrame, inputs: pl.Series, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    # Frames and chunks of uneven sizes, as in a mixture too large to hold.
    monkeypatch.setattr(packing, "CHUNK", 50)
    frames = [mixture.head(70), mixture.tail(50)]
    blocks = pl.concat(packed_blocks(frames, inputs, INSTRUCTIONS, tokenizer, 2_000, done.append))
    assert blocks["block"].to_list() == list(range(len(blocks)))
    assert blocks["tokens"].list.len().max() <= 2_000  # type: ignore[operator]
    assert done == [50, 70, 120]
    PACKED_MIXTURE.checked(blocks)

    expected = []
    for row in mixture.iter_rows(named=True):
        labels = [row["labels"][target] for target in row["targets"]]
        instruction = INSTRUCTIONS[row["dataset"]] if row["instructed"] else None
        prompt = segments(row["format"], [inputs[e] for e in row["examples"]], labels, instruction)
        kinds = [QUERY if i == len(labels) - 1 else SEEN if label in labels[:i] else FIRST
                 for i, label in enumerate(labels)]  # fmt: skip
        of_targets = [kind for label, kind in zip(labels, kinds, strict=True)
                      for _ in _ids(tokenizer, f" {label}")]  # fmt: skip
        expected.append((_ids(tokenizer, render(prompt)), of_targets))
    packed = [
        (tokens, [kind for _, kind in inside])
        for row in blocks.iter_rows(named=True)
        for tokens, inside in _cut(row)
    ]
    assert sorted(packed) == sorted(expected)


def test_a_prompt_longer_than_a_block_loses_exemplars_evenly_and_these_are_counted(
    mixture: pl.DataFrame, inputs: pl.Series, tokenizer: Any
) -> None:
    whole = _packed(mixture, inputs, tokenizer, 10_000)
    longest = max(length for row in whole["sequence_lengths"] for length in row)
    assert longest > BLOCK, "the case under test must occur"
    lost = TooLong(least=2)
    blocks = pl.concat(
        packed_blocks([mixture], inputs, INSTRUCTIONS, tokenizer, BLOCK, too_long=lost)
    )
    assert blocks["tokens"].list.len().max() <= BLOCK  # type: ignore[operator]

    queries = Counter(row["labels"][row["targets"][-1]] for row in mixture.iter_rows(named=True))
    found: Counter[str] = Counter()
    uneven = kept = too_few = 0
    for row in blocks.iter_rows(named=True):
        for tokens, inside in _cut(row):
            labels = [label.lstrip() for label in _labels(tokens, inside, tokenizer)]
            found[labels[-1]] += 1
            counts = Counter(labels[:-1])
            assert labels[-1] in counts
            assert max(counts.values()) - min(counts.values()) <= 1
            uneven += len(set(counts.values())) > 1
            kept += counts.total()
            too_few += min(counts.values()) < 2
    assert found == queries
    assert uneven, "some prompts must have lost exemplars"
    shown = int(mixture["targets"].list.len().sum()) - len(mixture)
    assert (lost.exemplars.total(), lost.too_few.total()) == (shown - kept, too_few)
    lengths = whole["sequence_lengths"].explode()
    assert lost.shortened.total() == (lengths > BLOCK).sum()
    [sentence] = lost.sentences(BLOCK)
    assert f"lost {shown - kept:,} exemplars; {too_few:,} of these" in sentence
    assert TooLong().sentences(BLOCK) == []


def _labels(tokens: list[int], inside: list[tuple[int, int]], tokenizer: Any) -> list[str]:
    """The texts of a prompt's labels; the tokens of one label lie side by side."""
    runs: list[list[int]] = []
    for i, (position, _) in enumerate(inside):
        if i == 0 or position != inside[i - 1][0] + 1:
            runs.append([])
        runs[-1].append(tokens[position])
    return [tokenizer.decode(run) for run in runs]


def _with_an_exemplar_per_class(
    mixture: pl.DataFrame, inputs: pl.Series, tokenizer: Any
) -> Iterator[tuple[str, int]]:
    """Every prompt's dataset and its tokens with the first exemplar of each class."""
    for row in mixture.iter_rows(named=True):
        *exemplars, _ = row["targets"]
        kept = [*map(exemplars.index, dict.fromkeys(exemplars)), -1]
        short = {name: [row[name][i] for i in kept] for name in ("examples", "targets")}
        text = render(tuning_prompt(row | short, inputs, INSTRUCTIONS))
        yield row["dataset"], len(_ids(tokenizer, text))


@pytest.mark.parametrize("whole", [False, True], ids=["composed", "tokenised whole"])
def test_a_prompt_too_long_for_a_block_is_left_out_and_counted(
    mixture: pl.DataFrame,
    inputs: pl.Series,
    tokenizer: Any,
    whole: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if whole:
        monkeypatch.setattr(
            packing.Composer,
            "composing",
            lambda _, prompts, __: np.zeros(len(prompts.counts), bool),
        )
    shortest = list(_with_an_exemplar_per_class(mixture, inputs, tokenizer))
    least: dict[str, int] = {}
    for dataset, length in shortest:
        least[dataset] = min(length, least.get(dataset, length))
    size = max(least.values()) + 5  # room for a prompt of every dataset, and not for all
    expected = Counter(dataset for dataset, length in shortest if length > size)
    assert 0 < expected.total() < len(mixture), "the case under test must occur"

    too_long = TooLong()
    blocks = packed_blocks([mixture], inputs, INSTRUCTIONS, tokenizer, size, too_long=too_long)
    packed = pl.concat(blocks)
    assert too_long.prompts == expected
    sequences = packed["sequence_lengths"].list.len().sum()
    assert sequences == len(mixture) - expected.total()
    of_shortened, *of_left_out = too_long.sentences(size)
    assert of_shortened.startswith(f"{too_long.shortened.total():,} prompts exceed a block")
    assert len(of_left_out) == len(expected)
    for sentence in of_left_out:
        dataset = sentence.partition(":")[0]
        assert f" {expected[dataset]:,} prompts" in sentence


def test_a_dataset_without_a_prompt_that_fits_is_an_error(
    mixture: pl.DataFrame, inputs: pl.Series, tokenizer: Any
) -> None:
    """It names the size that makes room for one, which is then enough for that dataset."""
    [dataset] = mixture["dataset"].unique().sort()[:1]
    of_one = mixture.filter(pl.col("dataset") == dataset)
    with pytest.raises(UserError, match=rf"^No prompt of dataset '{dataset}' fits") as error:
        _packed(of_one, inputs, tokenizer, 20)
    assert "\n" not in str(error.value)
    [enough] = re.findall(r"raise tuning\.block_tokens to (\d+) or more", str(error.value))
    assert len(_packed(of_one, inputs, tokenizer, int(enough))) > 0
    with pytest.raises(UserError, match=r"^No prompt of dataset"):
        _packed(of_one, inputs, tokenizer, int(enough) - 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=80))
))  # fmt: skip
def test_fill_puts_every_item_in_one_bin_and_overfills_none(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    bins = fill(lengths, capacity)
    assert sorted(item for members in bins for item in members) == list(range(len(lengths)))
    loads = [sum(lengths[item] for item in members) for members in bins]
    assert all(0 < load <= capacity for load in loads)
    # Two bins that fit into one would have been one.
    assert all(a + b > capacity for i, a in enumerate(loads) for b in loads[:i])


def test_fill_takes_the_tightest_bin() -> None:
    """60 and 50 open two bins with room for 40 and 50; 40 fills the first, 45 goes to the second."""
    assert fill([40, 60, 45, 50], 100) == [[1, 0], [3, 2]]


def test_fill_wastes_little_on_realistic_lengths() -> None:
    import numpy as np

    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 0.5, size=3_000), 40, 2_048).astype(
        int
    )
    bins = fill(lengths.tolist(), 2_048)
    assert lengths.sum() / (len(bins) * 2_048) > 0.99
