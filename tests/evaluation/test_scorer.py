"""Rank classification against running every label's full string through the model on its own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_loop import take_kernel
from tiny_models import VOCABULARY, reference_logprobs, reference_model, save_tiny_model

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.scorer import score
from symtune_pipeline.models.loading import load_model, load_scorer
from symtune_pipeline.models.proof import attention_of
from symtune_pipeline.models.trees import Query, Tree

ARCHITECTURES = ("llama", "gpt_neox", "qwen2", "gpt2")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llama"))


def random_tokens(rng: random.Random, least: int, most: int) -> list[int]:
    return [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(least, most))]


def random_tree(rng: random.Random, queries: int) -> Tree:
    """Labels of one to four tokens, among them one that begins another."""
    long = random_tokens(rng, 3, 4)
    labels = [long, long[:1], long[:2], random_tokens(rng, 1, 1), random_tokens(rng, 2, 4)]
    return Tree(
        random_tokens(rng, 5, 30),
        [
            Query(random_tokens(rng, 1, 12), rng.sample(labels, rng.randint(2, 5)))
            for _ in range(queries)
        ],
    )


def some_trees() -> list[Tree]:
    rng = random.Random(0)
    return [random_tree(rng, queries) for queries in (1, 2, 7, 4)]


def reference(folder: Path, trees: list[Tree]) -> list[list[list[float]]]:
    model = reference_model(folder)

    def label_score(context: list[int], label: list[int]) -> float:
        with torch.inference_mode():
            return float(reference_logprobs(model, [*context, *label])[-len(label) :].sum())

    return [
        [
            [label_score([*tree.prefix, *query.tokens], list(label)) for label in query.labels]
            for query in tree.queries
        ]
        for tree in trees
    ]


def our_scores(folder: Path, trees: list[Tree], max_tokens: int = 2_048) -> list[list[list[float]]]:
    return score(load_model(folder, torch.float32, "cpu").eval(), trees, max_tokens)


def assert_close(
    found: list[list[list[float]]], expected: list[list[list[float]]], within: float = 1e-4
) -> None:
    assert [[len(query) for query in tree] for tree in found] == [
        [len(q) for q in tree] for tree in expected
    ]
    for found_tree, expected_tree in zip(found, expected, strict=True):
        for found_query, expected_query in zip(found_tree, expected_tree, strict=True):
            assert found_query == pytest.approx(expected_query, abs=within)


def test_scores_equal_those_of_each_full_string_run_alone(any_model: Path) -> None:
    trees = some_trees()
    assert_close(our_scores(any_model, trees), reference(any_model, trees))


def test_scores_by_the_kernel_for_several_lengths_are_the_same(
    any_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel runs on a GPU only; a loop in its place computes what it does."""
    calls = take_kernel(monkeypatch)
    trees = [*some_trees(), Tree([], [Query([3, 4], [[5], [6, 7]]), Query([8], [[5], [6, 7, 8]])])]
    assert_close(our_scores(any_model, trees), reference(any_model, trees))
    assert calls


@pytest.mark.parametrize("max_tokens", [1, 40, 100])
def test_scores_do_not_depend_on_how_trees_are_batched_or_cut(llama: Path, max_tokens: int) -> None:
    trees = some_trees()
    assert max(tree.tokens for tree in trees) > 100  # so that every bound cuts a tree
    assert_close(our_scores(llama, trees, max_tokens), reference(llama, trees))


def test_a_pass_holds_no_more_tokens_than_allowed(llama: Path) -> None:
    """What bounds memory; each query of these trees fits with its prefix."""
    passes: list[int] = []
    model = load_model(llama, torch.float32, "cpu").eval()
    model.register_forward_pre_hook(
        lambda _, __, inputs: passes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    trees = some_trees()
    score(model, trees, max_tokens=100)
    assert max(passes) <= 100
    assert len(passes) < sum(len(tree.queries) for tree in trees)


def test_a_query_alone_scores_as_it_does_among_others(llama: Path) -> None:
    tree = random_tree(random.Random(1), 5)
    together = our_scores(llama, [tree])[0]
    alone = [our_scores(llama, [Tree(tree.prefix, [query])])[0] for query in tree.queries]
    assert_close([together], [[scores for (scores,) in alone]])


def test_queries_that_share_no_token_are_a_tree_without_a_prefix(llama: Path) -> None:
    trees = [Tree([], [Query([3, 4], [[5], [6, 7]]), Query([8], [[5], [6, 7]])])]
    assert_close(our_scores(llama, trees), reference(llama, trees))


def test_a_cpu_in_bf16_takes_every_tree(any_model: Path) -> None:
    """It has an attention of its own for short sequences, also for those of no token."""
    trees = [*some_trees(), Tree([], [Query([3, 4], [[5], [6, 7]]), Query([8], [[5], [6, 7]])])]
    found = score(load_scorer(any_model, torch.bfloat16, "cpu"), trees)
    assert_close(found, our_scores(any_model, trees), within=0.15)


def test_labels_of_one_token_do_not_tie_in_bf16(llama: Path) -> None:
    """A logit of bf16 has 8 bits, so that of 96 labels many would get the same."""
    every = [[token] for token in range(1, VOCABULARY)]
    trees = [Tree([5, 6, 7], [Query([8], every), Query([9, 2], every)])]
    ((found, other),) = score(load_scorer(llama, torch.bfloat16, "cpu"), trees)
    assert len(set(found)) == len(set(other)) == len(every)
    halved = load_model(llama, torch.bfloat16, "cpu").eval()
    assert len(set(score(halved, trees)[0][0])) < len(every)
    model = load_scorer(llama, torch.bfloat16, "cpu")
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_the_log_probabilities_of_all_one_token_labels_sum_to_one(llama: Path) -> None:
    (((*scores,),),) = our_scores(
        llama, [Tree([5, 6, 7], [Query([8], [[i] for i in range(VOCABULARY)])])]
    )
    assert torch.tensor(scores).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_progress_counts_every_query_once_and_never_falls(llama: Path) -> None:
    said: list[int] = []
    model = load_model(llama, torch.float32, "cpu").eval()
    score(model, some_trees(), max_tokens=60, progress=said.append)
    assert said == sorted(said)
    assert said[-1] == 1 + 2 + 7 + 4


def test_weights_that_are_not_numbers_are_a_user_error(llama: Path) -> None:
    model = load_model(llama, torch.float32, "cpu").eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(
        UserError, match=r"no finite number; its weights are damaged or its precision is too low\.$"
    ):
        score(model, some_trees())


PLAIN: dict[str, dict[str, Any]] = {
    "mamba": {},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bloom": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "gptj": {"rotary_dim": 4},
}
EXACT: dict[str, dict[str, Any]] = {  # windows and chunks that all trees exceed, caps, sinks
    "mistral": {"sliding_window": 9},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "gemma2": {"head_dim": 8, "sliding_window": 9, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": 9},
    "olmo3": {"sliding_window": 9},
    "llama4_text": {"attention_chunk_size": 8, "head_dim": 8, "num_local_experts": 4},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "sliding_window": 9},
}


@pytest.mark.parametrize("architecture", PLAIN)
def test_a_model_that_mixes_tokens_in_its_own_way_is_run_string_by_string(
    architecture: str, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path, architecture, **PLAIN[architecture])
    assert attention_of(load_model(folder, torch.float32, "cpu")).startswith("plain (")
    trees = some_trees()
    expected = reference(folder, trees)
    for max_tokens in (1, 100, 2_048):
        assert_close(our_scores(folder, trees, max_tokens), expected)


def test_strings_on_both_sides_of_a_bound_of_long_rope_are_scored_as_each_alone(
    tmp_path: Path,
) -> None:
    bound = {"original_max_position_embeddings": 60}
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    rope |= {"rope_theta": 10_000.0, "factor": 4.3}
    folder = save_tiny_model(tmp_path, "phi3", rope_parameters=rope | bound, **bound)
    rng = random.Random(3)
    queries = [Query(random_tokens(rng, n, n), [[5], [6, 7, 8]]) for n in (1, 9, 18, 40)]
    trees = [Tree(random_tokens(rng, 46, 46), queries), Tree([], queries)]
    assert_close(our_scores(folder, trees), reference(folder, trees))


@pytest.mark.parametrize("architecture", EXACT)
def test_windows_chunks_caps_and_sinks_are_exact_in_a_tree(
    architecture: str, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path, architecture, **EXACT[architecture])
    assert attention_of(load_model(folder, torch.float32, "cpu")) == "packed"
    trees = some_trees()
    assert_close(our_scores(folder, trees), reference(folder, trees))
