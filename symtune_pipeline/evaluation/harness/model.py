"""The harness's model `symtune`: its requests, answered by our scorer and our greedy generation.

Texts become tokens as the harness's `hf` makes them, so that both give the same numbers: a context and its
continuation are one string, which is split where the context's own tokens end, and a control token
that a text spells is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from symtune_pipeline.errors import UserError, brief, memory_as
from symtune_pipeline.evaluation.asking import BATCH
from symtune_pipeline.evaluation.generation import continued
from symtune_pipeline.evaluation.harness.sharing import Pair, score_pairs
from symtune_pipeline.evaluation.scorer import Scored
from symtune_pipeline.models.device import Precision, device_and_precision, fitting
from symtune_pipeline.models.folder import check_complete
from symtune_pipeline.models.generating import Generating, choose_generating
from symtune_pipeline.models.loading import load_scorer
from symtune_pipeline.models.opening import (
    check_vocabulary,
    open_model,
    open_tokenizer,
    read_config,
)

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel

PRECISIONS: dict[str, Precision] = {"auto": "auto", "float32": "fp32", "bfloat16": "bf16"}
WHOLE_TEXTS = 2_048  # tokens of a pass where each one is predicted, and so reaches the LM head
NEW_TOKENS = 256  # where a task does not say
BATCH_TOKENS = 16_384  # of prompts that are continued together, with what they are continued by
GREEDY = {"repetition_penalty": 1.0, "num_beams": 1}  # with these values nothing is changed
SAMPLING = ("temperature", "top_p", "top_k", "min_p")  # without a meaning where nothing is sampled


@register_model("symtune")
class SymtuneLM(TemplateLM):  # type: ignore[misc]
    """A local folder's model, each request answered as the harness's `hf` answers it."""

    def __init__(
        self,
        pretrained: str,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **others: object,
    ) -> None:
        """`dtype` 'auto' is bfloat16 on a GPU and float32 on a CPU, and `device` a GPU where there is one.

        The batch sizes, which the harness always gives, are not used: a pass is as many tokens as suit
        the device. Raises UserError for another argument, and where the folder holds no complete model.
        """
        super().__init__()
        if others:
            raise UserError(
                f"Model symtune of the harness does not know the argument '{next(iter(others))}'; it takes"
                " pretrained and dtype, so leave it out or use the model hf."
            )
        if dtype not in PRECISIONS:
            raise UserError(f"dtype={dtype} is none of {', '.join(PRECISIONS)}; name one of them.")
        device = device or "cuda"
        if device != "cpu" and device.partition(":")[0] != "cuda":
            raise UserError(f"Device {device} is none that symtune runs on; name cpu or cuda.")
        found, self._precision = device_and_precision(PRECISIONS[dtype])
        if device == "cpu" and dtype == "auto":
            self._precision = torch.float32
        # The harness names a GPU by default, also where there is none.
        self._device = device if found == "cuda" else found
        self._folder = Path(pretrained)
        if not self._folder.is_dir():
            raise UserError(
                f"pretrained={pretrained} is no folder; name one with config.json, tokenizer.json and"
                " safetensors, such as a result of the pipeline."
            )
        check_complete(self._folder)
        self.tokenizer = open_tokenizer(self._folder)
        self.max_length: int = resolve_max_length(read_config(self._folder), self.tokenizer)

    @cached_property
    def _scorer(self) -> PreTrainedModel:
        with fitting(self._folder):
            return load_scorer(self._folder, self._precision, self._device)

    @cached_property
    def _generator(self) -> tuple[PreTrainedModel, Generating]:
        with fitting(self._folder):
            model = open_model(self._folder, self._precision, self._device, attention=None).eval()
            return model, choose_generating(model)

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context: the one that begins a text, or ends it."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise UserError(
            f"The tokenizer in {self._folder} names no token that begins or ends a text (bos_token,"
            " eos_token), which this task needs; name one in its tokenizer_config.json."
        )

    @property
    def tokenizer_name(self) -> str:
        """By which the harness keeps requests that a chat template has made."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """The tokens of a text, begun as the tokenizer begins one, where it does not begin so itself."""
        if add_special_tokens is None:
            ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            begins = next((token for token in ids if token is not None), None)
            begun = begins is not None and has_bos_prefix(string, self.tokenizer.decode(begins))
            add_special_tokens = not begun
        ids = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return list(ids)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as the tokenizer's chat template writes them."""
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat_history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )
        except (TemplateError, ValueError) as error:  # a template may raise, or be absent
            raise UserError(
                f"The tokenizer in {self._folder} does not write these messages ({brief(error)}); leave"
                " --apply_chat_template or --system_instruction out."
            ) from error

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: object,
    ) -> list[Scored]:
        """Of each request, given with its tokens, the summed log-probability and whether it is generated."""
        pairs = [
            self._within(context, continuation, repr(text[1]))
            for text, context, continuation in requests
        ]
        with _bar(len(pairs), "loglikelihood", disable_tqdm) as done:
            return score_pairs(self._scorer, pairs, progress=done)

    def _within(self, context: list[int], continuation: list[int], text: str) -> Pair:
        """The end of the two that the model takes, as the harness cuts them: the last token is not run."""
        if not context or not continuation or len(continuation) > self.max_length:
            raise UserError(
                f"The continuation {text[:60]} of a task has {len(continuation)} tokens after"
                f" {len(context)} of its context, and model {self._folder} takes at least one of each and"
                f" {self.max_length} in all; leave the task out."
            )
        whole = (context + continuation)[-(self.max_length + 1) :]
        return whole[: -len(continuation)], continuation

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each whole text, in windows as long as the model takes."""
        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        pairs = [window for of_text in windows for window in of_text]
        with _bar(len(pairs), "loglikelihood_rolling", disable_tqdm) as done:
            scored = iter(score_pairs(self._scorer, pairs, WHOLE_TEXTS, done))
        return [sum(next(scored)[0] for _ in of_text) for of_text in windows]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The likeliest continuation of each text, without the stop string that ends it.

        Nothing of the model's generation_config.json but its end tokens is followed. Raises UserError
        for a task that samples or changes the model's probabilities.
        """
        asked = [_Asked.of(*request.args) for request in requests]
        prompts = [self.tok_encode(each.context)[-self._room(each.new_tokens) :] for each in asked]
        model, way = self._generator
        check_vocabulary(model, (token for prompt in prompts for token in prompt))
        texts: dict[int, str] = {}
        with _bar(len(prompts), "generate_until", disable_tqdm) as done:
            for batch in _batches(prompts, asked, way):
                first = asked[batch[0]]
                with memory_as(
                    f"Model {self._folder} runs out of memory where it continues a prompt of"
                    f" {len(prompts[batch[0]])} tokens; use a machine with more memory."
                ):
                    added = continued(
                        model, self.tokenizer, [prompts[i] for i in batch], [0] * len(batch),
                        first.new_tokens, list(first.stops), way,
                    )  # fmt: skip
                texts |= {i: first.ended(text) for i, text in zip(batch, added, strict=True)}
                done(len(texts))
        return [texts[i] for i in range(len(prompts))]

    def _room(self, new_tokens: int) -> int:
        """How many tokens of a prompt the model takes before so many new ones."""
        if new_tokens >= self.max_length:
            raise UserError(
                f"A task asks for {new_tokens} new tokens, and model {self._folder} takes"
                f" {self.max_length} in all; lower max_gen_toks by --gen_kwargs."
            )
        return self.max_length - new_tokens


@dataclass(frozen=True)
class _Asked:
    """A context, and up to where it is continued."""

    context: str
    stops: tuple[str, ...]
    new_tokens: int

    @classmethod
    def of(cls, context: str, settings: dict[str, Any]) -> _Asked:
        """From a request's settings; raises UserError where they ask for more than the likeliest tokens."""
        left = dict(normalize_gen_kwargs(settings, NEW_TOKENS))
        stops, new_tokens = left.pop("until"), left.pop("max_gen_toks")
        if left.pop("do_sample"):
            raise UserError(
                "A task asks for samples (do_sample or a temperature), and symtune generates the likeliest"
                " tokens only; ask it with --gen_kwargs do_sample=False, or use the model hf."
            )
        for name, value in left.items():
            if name not in SAMPLING and GREEDY.get(name) != value:
                raise UserError(
                    f"A task asks to generate with {name}={value}, and symtune generates the likeliest tokens"
                    " only; leave it out, or use the model hf."
                )
        return cls(context, tuple(stop for stop in stops if stop), new_tokens)

    def ended(self, text: str) -> str:
        """The text up to the first stop string, as the harness cuts it."""
        for stop in self.stops:
            text = text.split(stop)[0]
        return text


def _batches(
    prompts: Sequence[list[int]], asked: Sequence[_Asked], way: Generating
) -> Iterator[list[int]]:
    """The numbers of prompts that are continued together: of the same settings and like length."""
    order = sorted(
        range(len(prompts)), key=lambda i: (asked[i].stops, asked[i].new_tokens, -len(prompts[i]))
    )
    for _, alike in groupby(order, key=lambda i: (asked[i].stops, asked[i].new_tokens)):
        waiting = list(alike)
        while waiting:
            longest = len(prompts[waiting[0]]) + asked[waiting[0]].new_tokens
            size = max(1, min(BATCH, BATCH_TOKENS // longest)) if way.batched else 1
            yield waiting[:size]
            waiting = waiting[size:]


@contextmanager
def _bar(total: int, what: str, silent: bool) -> Iterator[Callable[[int], None]]:
    """The harness's own kind of progress, to be told how many requests are answered."""
    with tqdm(total=total, desc=f"symtune: {what} requests", disable=silent) as bar:

        def done(count: int) -> None:
            bar.update(count - bar.n)

        yield done
