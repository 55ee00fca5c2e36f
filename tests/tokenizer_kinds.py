"""Small tokenizers of the kinds that language models have, trained in a moment on odd prompts."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle, islice
from typing import Any

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from symtune_pipeline.prompts.text import render, segments

# Of Llama 3; GPT-4, Qwen and OLMo 2 have nearly the same.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
INPUTS = (
    "a good day", "Bad days, again.", "1234567", "it's 5 o'clock!", "What now?", "(yes)", "«né»",
    "so 😀", "😀", "we'll see...", "x", "end:", "-> arrow ->", "tab\there", "two\nlines", "a  b",
    "日本語", "I", "'s", "\u0301mark", "= 3", "No. 12", "semi;", '"quoted"', "100%", "e\u0301",
)  # fmt: skip
LABELS = ("FOO", "17", "4", "word", "B", "NTP", "Yes!", "né", "'ll", "12345", "-1", "😀", "two words",
          "x.", "IV", "?")  # fmt: skip
INSTRUCTIONS = (
    "Is the day good?",
    "Say it.",
    "Name the class",
    "Choose (one)",
    "Pick 1 or 2:",
    "né",
)
CONTROL = ("<unk>", "<s>", "</s>", "<|im_end|>")
ALSO_CONTROL = "<tool_call>"  # but not marked as special

KINDS = (
    "gpt2", "llama3", "metaspace", "metaspace_spaced", "unigram", "wordpiece", "gemma", "llama2",
    "superword",
)  # fmt: skip
STARTS = ("nothing", "begin", "begin_and_end")


@cache
def small_tokenizer(kind: str, start: str = "nothing") -> PreTrainedTokenizerFast:
    """A tokenizer of a kind that puts nothing, <s>, or <s> and </s> around a text."""
    tokenizer, trainer = _untrained(kind)
    tokenizer.train_from_iterator(_corpus(), trainer)
    if kind in ("gemma", "llama2"):  # Trained on words, and used without splitting a text into any.
        prefix = [normalizers.Prepend("▁")] if kind == "llama2" else []
        spaces = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = None  # type: ignore[assignment]
        tokenizer.normalizer = normalizers.Sequence([*prefix, spaces])
    if kind == "gemma":
        tokenizer.add_tokens(["\n", "\n\n", "▁▁"])
    single = {"nothing": "$A", "begin": "<s> $A", "begin_and_end": "<s> $A </s>"}[start]
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    if start != "nothing":
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    tokenizer.add_tokens([AddedToken(ALSO_CONTROL, special=False)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
        extra_special_tokens=["<|im_end|>"],
    )  # fmt: skip


def read(tokenizer: Any, text: str) -> list[int]:
    """What `tokenizer(text)` is, without a closing token."""
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _untrained(kind: str) -> tuple[Tokenizer, Any]:
    common: dict[str, Any] = {"show_progress": False, "special_tokens": list(CONTROL)}
    if kind in ("gpt2", "llama3"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.decoder = decoders.ByteLevel()
        split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")
        if kind == "llama3":
            by_pattern = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([by_pattern, split])
        else:
            tokenizer.pre_tokenizer = split
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        return tokenizer, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, **common)
    common["initial_alphabet"] = [*string.ascii_letters, *string.digits, *string.punctuation, "\n"]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        return tokenizer, trainers.WordPieceTrainer(vocab_size=400, **common)
    tokenizer = Tokenizer(
        models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>", fuse_unk=True)
    )
    if kind == "superword":  # Spaces are letters, and nothing splits a text into words.
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    else:
        scheme = "always" if kind in ("metaspace_spaced", "unigram") else "never"
        words = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        lines = [pre_tokenizers.Split("\n", "isolated")] if kind in ("gemma", "llama2") else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*lines, words])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    if kind == "unigram":
        return tokenizer, trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", **common)
    longest = 4 if kind == "superword" else 12
    return tokenizer, trainers.BpeTrainer(vocab_size=500, max_token_length=longest, **common)


def _corpus() -> list[str]:
    """Prompts of every format, which hold every input and label, some inputs more often than others."""
    inputs, labels = cycle(INPUTS), cycle(LABELS)
    prompts = []
    for style in range(10):
        for instruction in (None, *INSTRUCTIONS):
            texts = list(islice(inputs, 3))
            prompts.append(render(segments(style, texts, list(islice(labels, 3)), instruction)))
    return prompts * 2


def odd_rows(count: int, inputs: Sequence[str] = INPUTS) -> Iterator[dict[str, Any]]:
    """Rows of a mixture in every format, with every instruction or none, of random odd texts."""
    rng = np.random.default_rng(0)
    for number in range(count):
        instruction = int(rng.integers(-1, len(INSTRUCTIONS)))
        yield {
            "prompt": number,
            "dataset": f"set {max(instruction, 0)}",
            "format": number % 10,
            "examples": rng.choice(len(inputs), size=5, replace=False).tolist(),
            "targets": [0, 1, 1, 0, int(rng.integers(2))],
            "labels": rng.choice(LABELS, size=2, replace=False).tolist(),
            "instructed": instruction >= 0,
        }
