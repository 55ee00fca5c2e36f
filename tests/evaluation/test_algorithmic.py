"""Greedy completions in batches against each prompt generated alone, token by token."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tiny_models import save_tiny_model
from tokenizer_kinds import read, small_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.generation import complete, continued, prompts_of
from symtune_pipeline.evaluation.suites import algorithmic_suite
from symtune_pipeline.models.generating import Generating, choose_generating
from symtune_pipeline.prompts.text import algorithmic_prompt, render
from symtune_pipeline.prompts.tokens import SegmentTokenizer
from symtune_pipeline.sections import EvaluationConfig

CONFIG = EvaluationConfig(
    algorithmic_shots=2, list_functions=6, turing_programs=2, algorithmic_queries=1
)


@pytest.fixture(scope="module")
def suite() -> pl.DataFrame:
    return algorithmic_suite(CONFIG, seed=0)


@pytest.fixture(scope="module")
def words(tokenizer: Any) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="!")


@pytest.fixture
def model(words: Any, tmp_path: Path) -> Any:
    end = words.eos_token_id
    folder = save_tiny_model(
        tmp_path,
        vocab_size=len(words),
        max_position_embeddings=512,
        **{f"{name}_token_id": end for name in ("bos", "eos", "pad")},
    )
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def longest(words: Any, suite: pl.DataFrame) -> int:
    return max(len(words.encode(f" {text}\n")) for text in suite["target"])


def tokens_alone(model: Any, words: Any, row: dict[str, Any], count: int) -> list[int]:
    """The likeliest next token, `count` times, without padding or cache."""
    ids = words.encode(render(algorithmic_prompt(row)), add_special_tokens=False)
    added: list[int] = []
    with torch.inference_mode():
        for _ in range(count):
            table = model(input_ids=torch.tensor([ids + added]), use_cache=False).logits
            added.append(int(table[0, -1].argmax()))
    return added


def first_line(text: str) -> str:
    return text.strip().split("\n")[0].strip()


def test_left_padded_completions_equal_those_of_each_prompt_alone(
    model: Any, words: Any, suite: pl.DataFrame
) -> None:
    rows = suite.to_dicts()
    lengths = {len(words.encode(render(algorithmic_prompt(row)))) for row in rows}
    assert len(lengths) > 4  # so that most of the batch is padded
    count = longest(words, suite)
    alone = [tokens_alone(model, words, row, count) for row in rows]
    assert len({tuple(tokens) for tokens in alone}) > 4
    expected = [first_line(words.decode(tokens)) for tokens in alone]
    table = complete(model, words, suite, Generating())
    assert table["completion"].to_list() == expected
    assert table["correct"].to_list() == [
        a == b for a, b in zip(expected, suite["target"], strict=True)
    ]


def test_completions_are_the_same_where_the_queries_of_a_concept_share_its_examples(
    model: Any, words: Any
) -> None:
    config = CONFIG.model_copy(update={"algorithmic_queries": 3})
    # One query of a concept is alone in the last batch.
    suite = algorithmic_suite(config, seed=1).sample(fraction=1, shuffle=True, seed=0).head(22)
    ran: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda _, arguments, named: ran.append(named["input_ids"].numel()), with_kwargs=True
    )
    found = {}
    for shared in (True, False):
        ran.clear()
        table = complete(model, words, suite, Generating(shared=shared))
        found[shared] = table.drop("path"), sum(ran)
    assert found[True][0].equals(found[False][0])
    assert found[True][0]["completion"].n_unique() > 4
    assert found[True][1] < 0.7 * found[False][1]


LONG = {"short_factor": [1.0] * 4, "long_factor": [9.0] * 4, "rope_theta": 10_000.0}
BY_LENGTH: dict[str, dict[str, Any]] = {  # windows and bounds that most prompts exceed
    "mistral": {"sliding_window": 48},
    "gemma3_text": {"head_dim": 8, "sliding_window": 48},
    "phi3": {
        "original_max_position_embeddings": 90,
        "rope_parameters": LONG
        | {"rope_type": "longrope", "original_max_position_embeddings": 90, "factor": 5.7},
    },
}


@pytest.mark.parametrize("architecture", BY_LENGTH)
def test_a_batch_of_prompts_above_a_window_or_a_bound_is_completed_as_each_alone(
    architecture: str, words: Any, tmp_path: Path
) -> None:
    """The trial's strings are far shorter than real windows: here too, nothing is seen of this in it."""
    ends = {f"{name}_token_id": words.eos_token_id for name in ("bos", "eos", "pad")}
    size = {"vocab_size": len(words), "max_position_embeddings": 512}
    folder = save_tiny_model(tmp_path, architecture, **size, **ends, **BY_LENGTH[architecture])
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    suite = algorithmic_suite(CONFIG.model_copy(update={"algorithmic_queries": 3}), seed=1).head(20)
    prompts, count = prompts_of(suite, SegmentTokenizer(words))
    assert 48 < min(map(len, prompts)) < 90 < max(map(len, prompts))
    found = complete(model, words, suite, Generating(shared=True))["completion"].to_list()
    alone = [
        first_line(continued(model, words, [prompt], [0], count, ["\n"], Generating())[0])
        for prompt in prompts
    ]
    assert found == alone and len(set(found)) > 4


def test_weights_that_predict_no_number_are_a_user_error(model: Any) -> None:
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match="a log-probability that is no finite number"):
        choose_generating(model)


@pytest.mark.parametrize("kind", ["llama3", "unigram"])
@pytest.mark.parametrize("start", ["begin", "begin_and_end"])
def test_a_prompt_begins_as_the_tokenizer_begins_a_text_and_does_not_end(
    suite: pl.DataFrame, tmp_path: Path, kind: str, start: str
) -> None:
    tokenizer = small_tokenizer(kind, start)
    folder = save_tiny_model(tmp_path, vocab_size=len(tokenizer), max_position_embeddings=1_024)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    ran: list[Any] = []
    model.register_forward_pre_hook(
        lambda _, arguments, named: ran.append(named["input_ids"].tolist()), with_kwargs=True
    )
    spelled = suite.head(3).with_columns(query_input=pl.lit("</s> <|im_end|> <tool_call>"))
    complete(model, tokenizer, pl.concat([suite.head(5), spelled]), Generating())
    begin = tokenizer.bos_token_id
    control = {len(tokenizer) - 1, *tokenizer.all_special_ids} - {begin, tokenizer.unk_token_id}
    rows = suite.head(5).to_dicts()
    expected = [read(tokenizer, render(algorithmic_prompt(row))) for row in rows]
    prompts = [row[row.index(begin) :] for row in ran[0]]
    assert all(prompt in prompts for prompt in expected)
    assert not any(control & set(prompt) for prompt in prompts)


def test_a_prompt_in_a_chat_template_is_a_users_message(
    suite: pl.DataFrame, tmp_path: Path
) -> None:
    tokenizer = deepcopy(small_tokenizer("llama3", "begin"))
    tokenizer.chat_template = "{{ bos_token }}User: {{ messages[0]['content'] }}<|im_end|>\n"
    folder = save_tiny_model(tmp_path, vocab_size=len(tokenizer), max_position_embeddings=1_024)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ran: list[Any] = []
    model.register_forward_pre_hook(
        lambda _, arguments, named: ran.append(named["input_ids"].tolist()), with_kwargs=True
    )
    one_by_one = Generating(batched=False, cached=False)
    table = complete(model, tokenizer, suite.head(5), one_by_one, chat=True)
    assert set(table["path"]) == {"one by one, no cache"}
    for row in suite.head(5).to_dicts():
        message = {"role": "user", "content": render(algorithmic_prompt(row))}
        assert [tokenizer.apply_chat_template([message], return_dict=False)] in ran


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 3, "suppress_tokens": list(range(40, 300))},
        {"do_sample": True, "temperature": 5.0, "top_k": 3},
        {"num_beams": 3, "length_penalty": 2.0},
        {"max_length": 3, "forced_eos_token_id": 5, "begin_suppress_tokens": list(range(200))},
        {"bad_words_ids": [[i] for i in range(40, 300)], "max_time": 1e-9},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_the_models_own_generation_settings_change_no_completion(
    model: Any, words: Any, suite: pl.DataFrame, asked: dict[str, Any]
) -> None:
    expected, way = complete(model, words, suite, Generating()), choose_generating(model)
    for name, value in asked.items():
        setattr(model.generation_config, name, value)
    own = model.generation_config
    assert complete(model, words, suite, Generating()).equals(expected)
    assert choose_generating(model) == way
    assert model.generation_config is own


def test_generation_stops_at_each_end_token_that_the_models_files_name(
    model: Any, words: Any, suite: pl.DataFrame
) -> None:
    one = suite.head(1)
    added = tokens_alone(model, words, one.to_dicts()[0], longest(words, one))
    model.generation_config.eos_token_id = [words.eos_token_id, added[1]]
    assert complete(model, words, one, Generating())["completion"].to_list() == [
        first_line(words.decode(added[: added.index(added[1])]))
    ]


@pytest.mark.parametrize("end", ["\n", "!"])
def test_generation_stops_at_the_end_of_a_line_and_of_the_text(
    model: Any, words: Any, suite: pl.DataFrame, end: str
) -> None:
    one = suite.head(1)
    count = longest(words, one)
    added = tokens_alone(model, words, one.to_dicts()[0], count)
    end_at = next(i for i, token in enumerate(added) if i and token not in added[:i])
    assert end_at < count - 1  # so that stopping shows
    (stop,) = words.encode(end, add_special_tokens=False)
    assert stop not in added
    with torch.no_grad():  # that token is now the end
        head = model.lm_head.weight
        head[[stop, added[end_at]]] = head[[added[end_at], stop]]
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    table = complete(model, words, one, Generating())
    assert table["completion"].to_list() == [first_line(words.decode(added[:end_at]))]
    assert len(passes) == end_at + 1


def test_a_prompt_above_the_models_context_is_a_user_error(
    model: Any, words: Any, suite: pl.DataFrame
) -> None:
    model.config.max_position_embeddings = 20
    with pytest.raises(
        UserError,
        match=r"has \d+ tokens with its completion, and the model takes 20; lower"
        r" evaluation\.algorithmic_shots\.$",
    ):
        complete(model, words, suite, Generating())


def ask_for_memory_above(model: Any, prompts: int) -> list[int]:
    """From here on a pass of more prompts asks the allocator for what no machine has."""
    sizes: list[int] = []

    def forward(_: Any, arguments: Any, named: dict[str, Any]) -> None:
        size = len(named["input_ids"])
        sizes.append(size)
        if size > prompts:
            torch.empty(size << 50)

    model.register_forward_pre_hook(forward, with_kwargs=True)
    return sizes


@pytest.mark.slow
def test_a_batch_that_runs_out_of_memory_is_tried_again_with_fewer_prompts(
    model: Any, words: Any, suite: pl.DataFrame
) -> None:
    expected = complete(model, words, suite, Generating())
    sizes = ask_for_memory_above(model, prompts=3)
    counts: list[int] = []
    table = complete(model, words, suite, Generating(), counts.append)
    assert table.equals(expected)
    assert max(sizes) > 3
    assert counts == sorted(set(counts)) and counts[-1] == len(suite)


@pytest.mark.slow
def test_a_prompt_that_no_memory_holds_is_a_user_error(
    model: Any, words: Any, suite: pl.DataFrame
) -> None:
    ask_for_memory_above(model, prompts=0)
    with pytest.raises(UserError, match=r"out of memory on one prompt .* lower evaluation\.algo"):
        complete(model, words, suite, Generating())
