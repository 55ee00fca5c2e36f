"""How long a pass takes on this machine's CPU: measured on the model's own layers, one and two of them.

The layers are real ones with random weights. All of a model's layers cost alike, so the time of many
follows from that of one more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from symtune_pipeline.evaluation.asking import BATCH, PASS_TOKENS
from symtune_pipeline.evaluation.questions import LABEL_TOKENS, Part

REPEATS = 3  # of which the fastest counts: other processes can only slow one down


@dataclass(frozen=True)
class Speed:
    """Seconds of a full pass of scoring, and of a token more of each prompt of a batch."""

    of_pass: float
    of_step: float


def measured_speed(architecture: dict[str, Any], part: Part, *, bf16: bool) -> Speed:
    """The speed of a model of the catalogue on contexts like those of `part`, on average.

    Takes seconds, and the memory of two layers and the embedding.
    """
    one, two = (
        _of_layers(architecture | {"num_hidden_layers": layers}, part, bf16) for layers in (1, 2)
    )
    more = architecture["num_hidden_layers"] - 1
    return Speed(
        one.of_pass + more * max(0.0, two.of_pass - one.of_pass),
        one.of_step + more * max(0.0, two.of_step - one.of_step),
    )


def _of_layers(architecture: dict[str, Any], part: Part, bf16: bool) -> Speed:
    """The same of a model of these layers alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from symtune_pipeline.evaluation.scorer import score
    from symtune_pipeline.models.opening import context_of
    from symtune_pipeline.models.proof import choose_path
    from symtune_pipeline.models.trees import Query, Tree

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**architecture),
        attn_implementation="eager",
        dtype=torch.bfloat16 if bf16 else torch.float32,
    ).eval()
    choose_path(model)
    # A context's tokens, half of them shared, with as many labels as it has on average.
    most = PASS_TOKENS["cpu"]
    asked = max(8, round(part.tokens / max(1, part.contexts)))
    size = min(asked, most, context_of(model.config) or most)
    labels = max(1, round(part.targets / max(1, part.contexts) / LABEL_TOKENS))
    queries = max(1, min(size // 8, labels // 2))
    own = max(1, size // 2 // queries)
    each = [[1] * LABEL_TOKENS, [2] * LABEL_TOKENS]
    tree = Tree([1] * (size // 2), [Query([1] * own, each) for _ in range(queries)])
    trees = [tree] * max(1, PASS_TOKENS["cpu"] // tree.tokens)
    run = sum(each.tokens for each in trees)
    step = torch.ones(BATCH, 1, dtype=torch.long)

    def of_step() -> object:
        with torch.inference_mode():
            return model.get_output_embeddings()(_hidden(model, step))

    seconds = _fastest(lambda: score(model, trees))
    return Speed(seconds * PASS_TOKENS["cpu"] / run, _fastest(of_step))


def _hidden(model: Any, tokens: Any) -> Any:
    """What the decoder layers make of a token each, without a cache: its cost is that of the matrices."""
    from symtune_pipeline.models.proof import is_packed

    if is_packed(model):
        model.set_attn_implementation("sdpa")
    return model.base_model(input_ids=tokens, use_cache=False).last_hidden_state


def _fastest(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS + 1):  # the first hands out memory
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times[1:])
