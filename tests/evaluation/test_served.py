"""A served model: what ours computes from its folder, asked of a server, and what a user reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from model_server import KEY, NAME, ModelServer
from tiny_models import reference_model, save_reading_model, save_tiny_model
from tokenizer_kinds import small_tokenizer

from symtune_pipeline.catalog.datasets import all_datasets
from symtune_pipeline.commands.score_endpoint import accuracies
from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation import classification, generation, language, served
from symtune_pipeline.evaluation.asking import ALONE
from symtune_pipeline.evaluation.config import Endpoint
from symtune_pipeline.evaluation.predictions import of_model
from symtune_pipeline.evaluation.server import TRIES, Server, in_clear
from symtune_pipeline.evaluation.suites import (
    algorithmic_suite,
    classification_suite,
    language_suite,
)
from symtune_pipeline.prompts.text import algorithmic_prompt, render
from symtune_pipeline.sections import EvaluationConfig
from symtune_pipeline.tables import (
    ALGORITHMIC_PREDICTIONS,
    CLASSIFICATION_PREDICTIONS,
    LANGUAGE_LOSSES,
    Protocol,
    flipped_setting,
)

INSTRUCTIONS = {key: entry.instruction for key, entry in all_datasets().items()}
FEW = EvaluationConfig(
    contexts=1, queries=2, exemplars_per_class=1, list_functions=6, turing_programs=4,
    algorithmic_shots=2, precision="fp32",
)  # fmt: skip
PROTOCOLS: tuple[Protocol, ...] = ("completions", "sglang")
both = pytest.mark.parametrize("protocol", PROTOCOLS)


@dataclass(frozen=True)
class Suites:
    """Small suites, and the inputs that they refer to."""

    classification: pl.DataFrame
    algorithmic: pl.DataFrame
    language: pl.DataFrame
    inputs: list[str]


@pytest.fixture(scope="module")
def suites(evaluation_examples: pl.DataFrame, symbols: pl.DataFrame) -> Suites:
    return Suites(
        classification_suite(evaluation_examples, symbols, INSTRUCTIONS, FEW, seed=0),
        algorithmic_suite(FEW, seed=0),
        language_suite(evaluation_examples, 10, seed=0),
        evaluation_examples.sort("example")["input"].to_list(),
    )


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reading_model(tmp_path_factory.mktemp("model"), deepcopy(tokenizer))


@pytest.fixture
def server(folder: Path) -> Iterator[ModelServer]:
    with ModelServer(folder).serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked again after a hundredth of a second, not after one."""
    made = Server.__init__
    monkeypatch.setattr(
        Server, "__init__", lambda self, url, key=None: made(self, url, key, 5.0, 0.01)
    )


def endpoint(server: ModelServer, protocol: Protocol = "completions", **changed: Any) -> Endpoint:
    url = f"{server.url}/v1" if protocol == "completions" else server.url
    settings = {"url": url, "model": NAME, "protocol": protocol, "tokenizer": server.folder}
    return Endpoint(**{**settings, "version": "1", **changed})


def classified(
    at: Endpoint, suites: Suites, rows: int | None = None, config: EvaluationConfig = FEW
) -> pl.DataFrame:
    suite = suites.classification.head(rows) if rows else suites.classification
    return served.classify(at, suite, suites.inputs, config, lambda _: None, ALONE)


def same_scores(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Log-probabilities to 1e-4 nats, and everything else alike but the path."""
    scored = ["logprobs", "content_free"]
    scored += [] if expected["channel_logprobs"].has_nulls() else ["channel_logprobs"]
    for name in scored:
        for ours, local in zip(found[name], expected[name], strict=True):
            assert ours.to_list() == pytest.approx(local.to_list(), abs=1e-4)
    alike = [n for n in expected.columns if n not in (*scored, "path")]
    assert found.select(alike).equals(expected.select(alike))


# --- the same answers ---------------------------------------------------------------------------


@both
def test_labels_score_as_they_do_from_the_folder(
    server: ModelServer, suites: Suites, protocol: Protocol
) -> None:
    done: list[int] = []
    at = endpoint(server, protocol)
    found = served.classify(at, suites.classification, suites.inputs, FEW, done.append, ALONE)
    local = classification.classify(server.folder, suites.classification, suites.inputs, FEW)
    same_scores(found, local)
    assert set(found["path"]) == {"served as tiny"}
    CLASSIFICATION_PREDICTIONS.checked(of_model(found, "micro", "any_name"))
    assert done == sorted(done) and done[-1] == len(suites.classification)


@both
def test_texts_score_after_labels_as_they_do_from_the_folder(
    server: ModelServer, suites: Suites, protocol: Protocol
) -> None:
    config = FEW.model_copy(update={"channel": True})
    found = classified(endpoint(server, protocol), suites, 12, config)
    rows = suites.classification.head(12)
    local = classification.classify(server.folder, rows, suites.inputs, config)
    same_scores(found, local)
    assert not found["channel_logprobs"].has_nulls()


@both
def test_completions_are_those_of_the_folder(
    tokenizer: Any, suites: Suites, tmp_path: Path, protocol: Protocol
) -> None:
    """Of a model that ends texts and lines, and whose files ask for something else than greed."""
    folder = save_model_that_ends(tmp_path, deepcopy(tokenizer), suites)
    with ModelServer(folder).serving() as server:
        found = served.generate(
            endpoint(server, protocol), suites.algorithmic, FEW, lambda _: None, ALONE
        )
        assert server.finished >= {"stop", "end token", "length"}
    local = generation.generate(folder, suites.algorithmic, FEW)
    alike = [name for name in local.columns if name != "path"]
    assert found.select(alike).equals(local.select(alike))
    assert found["completion"].n_unique() > 5
    ALGORITHMIC_PREDICTIONS.checked(of_model(found, "micro", "any_name"))


@both
def test_plain_texts_cost_as_much_as_they_do_from_the_folder(
    server: ModelServer, suites: Suites, protocol: Protocol
) -> None:
    at = endpoint(server, protocol)
    found = served.measure(at, suites.language, suites.inputs, FEW, lambda _: None, ALONE)
    local = language.measure(server.folder, suites.language, suites.inputs, FEW)
    assert found["nats"].to_list() == pytest.approx(local["nats"].to_list(), abs=1e-4, rel=1e-6)
    assert found.drop("nats", "path").equals(local.drop("nats", "path"))
    LANGUAGE_LOSSES.checked(
        of_model(found, "micro", "any_name").select(list(LANGUAGE_LOSSES.columns))
    )


@both
@pytest.mark.parametrize(
    ("kind", "start"), [("gpt2", "begin"), ("unigram", "begin"), ("llama2", "begin_and_end")]
)
def test_a_prompt_begins_as_the_tokenizer_begins_one(
    suites: Suites, tmp_path: Path, protocol: Protocol, start: str, kind: str
) -> None:
    tokenizer = small_tokenizer(kind, start)
    folder = save_tiny_model(tmp_path, vocab_size=len(tokenizer), max_position_embeddings=4_096)
    tokenizer.save_pretrained(folder)
    with ModelServer(folder, names_tokens=False).serving() as server:
        found = classified(endpoint(server, protocol), suites, 6)
        prompts = [request.get("prompt", request.get("input_ids")) for request in server.asked]
    assert {prompt[0] for prompt in prompts} == {tokenizer.bos_token_id}
    local = classification.classify(folder, suites.classification.head(6), suites.inputs, FEW)
    same_scores(found, local)


@both
def test_a_prompt_stands_in_the_models_own_chat_template(
    suites: Suites, tmp_path: Path, protocol: Protocol
) -> None:
    tokenizer = deepcopy(small_tokenizer("gpt2", "nothing"))
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>{% endif %}"
    )
    folder = save_tiny_model(tmp_path, vocab_size=len(tokenizer), max_position_embeddings=4_096)
    tokenizer.save_pretrained(folder)
    config = FEW.model_copy(update={"chat_template": True})
    with ModelServer(folder).serving() as server:
        found = classified(endpoint(server, protocol), suites, 6, config)
        prompts = [request.get("prompt", request.get("input_ids")) for request in server.asked]
    assert {prompt[0] for prompt in prompts} == {tokenizer.convert_tokens_to_ids("<s>")}
    local = classification.classify(folder, suites.classification.head(6), suites.inputs, config)
    same_scores(found, local)


def save_model_that_ends(folder: Path, tokenizer: Any, suites: Suites) -> Path:
    """A tiny model that often predicts a line's end, or an end token that is not the tokenizer's."""
    save_reading_model(folder, tokenizer)
    model, frequent = reference_model(folder), Counter[int]()
    for row in suites.algorithmic.iter_rows(named=True):
        ids = torch.tensor([tokenizer.encode(render(algorithmic_prompt(row)))])
        added = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=-1)
        frequent.update(set(added[0, ids.shape[1] + 1 :].tolist()))
    newline, end = tokenizer.encode("\n")[0], tokenizer.encode("q")[0]
    (one, _), (other, _) = frequent.most_common(2)
    with torch.no_grad():  # these take the place of what it predicts often
        rows = model.lm_head.weight
        rows[[newline, one, end, other]] = rows[[one, newline, other, end]]
    model.generation_config.eos_token_id = [end]
    model.generation_config.repetition_penalty = 1.3
    model.save_pretrained(folder)
    return folder


# --- how a server is asked ----------------------------------------------------------------------


def test_the_requests_of_a_context_are_neighbours_and_few_run_at_once(
    server: ModelServer, suites: Suites
) -> None:
    """SGLang computes log-probabilities from a label's start alone, so what is shared may be cached."""
    server.delay = 0.002
    suite = suites.classification.filter(benchmark="icl")
    classified(endpoint(server, "sglang"), replace(suites, classification=suite))
    assert 1 < server.at_once <= served.CONCURRENT
    scored = [request for request in server.asked if request["logprob_start_len"] > 0]
    openings = [tuple(request["input_ids"][:60]) for request in scored]
    windows = [set(openings[start : start + 16]) for start in range(len(openings) - 16)]
    assert len(set(openings)) == 8 and max(map(len, windows)) <= 4
    for request in scored:
        assert request["logprob_start_len"] > len(request["input_ids"]) - 30


def test_a_server_that_is_busy_or_drops_a_connection_is_asked_again(
    server: ModelServer, suites: Suites
) -> None:
    expected = classified(endpoint(server), suites, 2)
    for trouble in (429, 503, 500, None):
        server.trouble, server.troubles = trouble, TRIES - 1
        assert classified(endpoint(server), suites, 2).equals(expected)
    server.trouble, server.troubles, server.tried = 503, 1_000, 0
    with pytest.raises(UserError, match=r"refuses a request \(status 503: busy\); correct"):
        classified(endpoint(server), suites, 2)
    assert server.tried == TRIES
    server.trouble = None
    with pytest.raises(UserError, match=r"does not answer \(.+\); start the server, or correct"):
        classified(endpoint(server), suites, 2)


def test_the_first_failure_ends_the_work(server: ModelServer, suites: Suites) -> None:
    server.after, server.then = 5, {"says": b"hello"}
    with pytest.raises(UserError, match="answers with something else than a completion; correct"):
        classified(endpoint(server), suites)
    assert len(server.asked) < 1.5 * served.PASS, "no other pass is begun"


def test_a_key_is_shown_to_the_server_and_to_nobody_else(
    server: ModelServer, suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.needs_key = True
    with pytest.raises(UserError, match=r"refuses the key \(status 401\); set OPENAI_API_KEY"):
        classified(endpoint(server), suites, 1)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert len(classified(endpoint(server), suites, 1)) == 1
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with pytest.raises(UserError) as refused:
        classified(endpoint(server), suites, 1)
    assert "sk-wrong" not in str(refused.value)
    far = endpoint(server, url="http://192.0.2.1:8000/v1")
    with pytest.raises(UserError, match="would be shown the key in OPENAI_API_KEY unencrypted"):
        classified(far, suites, 1)


def test_an_address_that_others_could_read_on_the_way_is_known() -> None:
    for url in ("http://gpu-1:8000/v1", "http://192.168.0.7/v1", "http://127.0.0.1.example.com"):
        assert in_clear(url)
    for url in ("https://gpu-1/v1", "http://localhost:8000", "http://127.0.0.1", "http://[::1]:80"):
        assert not in_clear(url)


# --- what cannot be right -----------------------------------------------------------------------

OTHER_TOKENS = r"has other tokens than the \d+ that it was asked; serve 'tiny' with the tokenizer"
NO_LOGPROBS = "returns no log-probabilities of the prompt; serve the model with a program that"


@both
@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ({"echoes": False}, NO_LOGPROBS),
        ({"says": b"<html>"}, "answers with something else than"),
        ({"says": b'{"choices": [], "text": 1}'}, "answers with something else than"),
        ({"adds": [5]}, OTHER_TOKENS),
        (
            {"says": b'{"choices": [{"text": "x", "logprobs": null}], "meta_info": {"prompt_tokens": 1}}'},
            rf"({NO_LOGPROBS}|{OTHER_TOKENS})",
        ),
    ],
    ids=["no echo", "a page", "no choice", "a token before", "no log-probabilities"],
)  # fmt: skip
def test_a_response_that_cannot_be_used_is_one_sentence(
    server: ModelServer, suites: Suites, protocol: Protocol, trouble: dict[str, Any], sentence: str
) -> None:
    for name, value in trouble.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=f"^Endpoint {server.url}(/v1)? {sentence}"):
        classified(endpoint(server, protocol), suites, 2)


@both
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), None, -9_999.0])
def test_a_log_probability_that_is_none_is_one_sentence(
    server: ModelServer,
    suites: Suites,
    protocol: Protocol,
    value: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logprobs: Callable[[Sequence[int]], list[Any]] = server._logprobs
    monkeypatch.setattr(server, "_logprobs", lambda ids: [*logprobs(ids)[:-1], value])
    with pytest.raises(UserError, match="returned a log-probability that is no finite number"):
        classified(endpoint(server, protocol), suites, 2)


@both
def test_a_model_with_another_vocabulary_is_not_taken_for_ours(
    server: ModelServer, suites: Suites, tmp_path: Path, protocol: Protocol
) -> None:
    """Its tokens have the same numbers and are other words: the server names them by their words."""
    other = save_reading_model(tmp_path, deepcopy(small_tokenizer("gpt2", "nothing")))
    server.names_tokens = False
    if protocol == "sglang":
        pytest.skip("SGLang names tokens by their numbers alone")
    with pytest.raises(UserError, match=OTHER_TOKENS):
        classified(endpoint(server, protocol, tokenizer=other), suites, 2)


@both
def test_another_model_than_the_one_named_is_one_sentence(
    server: ModelServer, suites: Suites, protocol: Protocol
) -> None:
    with pytest.raises(UserError, match=r"does not serve 'other' but 'tiny'; correct the model's"):
        classified(endpoint(server, protocol, model="other"), suites, 1)
    server.lists_models = False
    sentence = {
        "completions": r"\(status 404: .*The model does not exist.*\); correct",
        "sglang": "answers as '/weights/tiny' where 'other' was asked; serve that one",
    }
    with pytest.raises(UserError, match=sentence[protocol]):
        classified(endpoint(server, protocol, model="other"), suites, 1)


def test_a_server_that_answers_as_another_model_is_one_sentence(
    server: ModelServer, suites: Suites
) -> None:
    server.answers_as = "larger"
    with pytest.raises(UserError, match="answers as 'larger' where 'tiny' was asked; serve that"):
        classified(endpoint(server), suites, 1)


def test_a_wrong_address_or_protocol_is_one_sentence(server: ModelServer, suites: Suites) -> None:
    without = endpoint(server, url=server.url)
    with pytest.raises(UserError, match=r"\(status 404: .*Not Found.*\); correct the address"):
        classified(without, suites, 1)
    too_long = endpoint(server, "sglang", url=f"{server.url}/v1")
    with pytest.raises(
        UserError, match="does not say which model it serves; give SGLang's address"
    ):
        classified(too_long, suites, 1)
    for url in ("http://127.0.0.1:1/v1", "127.0.0.1:1/v1", "http://[/v1"):
        with pytest.raises(UserError, match=r"does not answer \(.+\); start the server, or corr"):
            classified(endpoint(server, url=url), suites, 1)


CHANGED = "has another model under the name 'tiny' than when it was asked first; serve one model"


@both
@pytest.mark.parametrize("kind", ["classification", "algorithmic", "language"])
def test_a_model_that_changes_in_between_is_one_sentence(
    server: ModelServer, suites: Suites, protocol: Protocol, kind: str
) -> None:
    server.after, server.then = 12, {"root": "/weights/other"}
    with pytest.raises(UserError, match=CHANGED):
        if kind == "classification":
            classified(endpoint(server, protocol), suites)
        elif kind == "algorithmic":
            at = endpoint(server, protocol)
            served.generate(at, suites.algorithmic, FEW, lambda _: None, ALONE)
        else:
            at = endpoint(server, protocol)
            served.measure(at, suites.language, suites.inputs, FEW, lambda _: None, ALONE)


@both
def test_other_weights_under_the_same_name_and_path_are_noticed(
    server: ModelServer, suites: Suites, tokenizer: Any, tmp_path: Path, protocol: Protocol
) -> None:
    settings = {"vocab_size": len(tokenizer), "max_position_embeddings": 4_096}
    other = save_tiny_model(tmp_path, "llama", initializer_range=0.19, **settings)
    server.after, server.then = 12, {"model": reference_model(other)}
    with pytest.raises(UserError, match=CHANGED):
        classified(endpoint(server, protocol), suites)


def test_accuracies_have_their_number_and_interval() -> None:
    settings = [("a", i < 6, 0.5) for i in range(8)] + [(flipped_setting(50), True, 0.25)] * 2
    predictions = CLASSIFICATION_PREDICTIONS.frame(
        [
            {"setting": setting, "correct": correct, "chance": chance, "calibrated_correct": True}
            for setting, correct, chance in settings
        ]
    )
    assert accuracies(predictions) == [
        "a: 0.75 [0.41, 0.93] of 8, chance 0.50, calibrated 1.00 [0.68, 1.00]",
        "50% flipped: 1.00 [0.34, 1.00] of 2, chance 0.25, calibrated 1.00 [0.34, 1.00]",
    ]
