"""Which way of running a loaded model is right for it: packed, or each string in a row of its own.

A few short random strings are run alone with transformers' own attention, packed as tuning lays prompts,
and as a tree as scoring lays labels. A class whose layers do not all attend as `attention` says (state
spaces, convolutions, position biases) gives other numbers then, and takes the plain path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from symtune_pipeline.errors import UserError, brief, is_out_of_memory
from symtune_pipeline.models.attention import NAME, packed_logits
from symtune_pipeline.models.lengths import scaled_above
from symtune_pipeline.models.packing import Branch, PackedSequence
from symtune_pipeline.models.plain import logits_alone
from symtune_pipeline.models.trial import (
    LENGTHS,
    ROOT,
    STEM,
    UNMOVED_PADDED,
    class_name,
    is_unmoved,
    random_strings,
    run_alone,
    same_to_rounding,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT = 2  # every second token's logits are asked for: whether a class gives those

PACKED = "packed"


def attention_of(model: PreTrainedModel) -> str:
    """How the model is run: 'packed', or 'plain' with the reason."""
    return str(getattr(model, "symtune_attention", PACKED))


def is_packed(model: PreTrainedModel) -> bool:
    """Whether the model may be called with `attention.packed_logits`."""
    return attention_of(model) == PACKED


def set_path(model: PreTrainedModel, attention: str) -> None:
    """Run the model as `attention_of` says of another one of its class."""
    _note(model, attention)
    if attention == PACKED:
        model.set_attn_implementation(NAME)


def _note(model: Any, attention: str) -> None:
    model.symtune_attention = attention


def choose_path(model: PreTrainedModel) -> None:
    """Prove which path is right for a model that attends with transformers' `eager`, and set it.

    Leaves torch's random state as it is. Raises UserError for a class that is right on neither path.
    """
    training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        model.eval()
        strings = random_strings(model)
        try:
            alone = [run_alone(model, string) for string in strings]
        except Exception as error:  # whatever a class may raise that wants more than tokens
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"A model of class {class_name(model)} does not run on text alone ({brief(error)});"
                " take another model."
            ) from error
        reason = _why_not_packed(model, strings, alone)
        if reason:
            model.set_attn_implementation("eager")
            _check_plain(model, strings, alone)
        _note(model, f"plain ({reason})" if reason else PACKED)
        model.train(training)


def _why_not_packed(
    model: PreTrainedModel, strings: list[torch.Tensor], alone: list[torch.Tensor]
) -> str | None:
    name = class_name(model)
    if not type(model)._can_set_attn_implementation():
        return f"{name} has attention code of its own"
    if scaled_above(model.config.get_text_config()) is not None:
        return f"{name} scales positions by the length of what it runs"
    try:
        model.set_attn_implementation(NAME)
        packed, tree = _packed(model, strings), _tree(model, strings)
        other = _with_another_end(strings, ROOT + STEM)
        packed_again, tree_again = _packed(model, other), _tree(model, other)
        behind = _packed(model, [strings[1], strings[0], strings[2]])[len(strings[1]) // KEPT :]
    except Exception as error:  # whatever a class does with arguments that it does not expect
        if is_out_of_memory(error):
            raise
        return f"{name} does not run packed: {brief(error)}"
    first, second, third = alone
    whole = -(-LENGTHS[0] // KEPT)  # rows that the end may change; in the tree it begins later
    if (
        not same_to_rounding(packed, torch.cat(alone)[::KEPT], model.dtype)
        or not is_unmoved(packed[whole:], packed_again[whole:])
        or not is_unmoved(packed[:whole], behind[:whole])
    ):
        return f"{name} does not keep packed prompts apart"
    in_tree = torch.cat([first, second[ROOT + STEM :], third[ROOT:]])
    if not same_to_rounding(tree, in_tree[::KEPT], model.dtype) or not is_unmoved(
        tree[whole:], tree_again[whole:]
    ):
        return f"{name} does not keep the branches of a tree apart"
    return None


def _with_another_end(strings: list[torch.Tensor], kept: int) -> list[torch.Tensor]:
    """The strings, the first of which goes on otherwise after so many tokens.

    What it has kept and the others must be predicted as before.
    """
    first, *others = strings
    return [torch.cat([first[:kept], first[kept:].flip(0)]), *others]


def _packed(model: PreTrainedModel, strings: list[torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of the strings as tuning lays them [T, V]."""
    positions = torch.cat([torch.arange(len(string)) for string in strings])
    sequences = [PackedSequence(len(string)) for string in strings]
    return _run(model, torch.cat(strings), positions, sequences)


def _tree(model: PreTrainedModel, strings: list[torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of the strings as scoring lays them [T, V]: what they share runs once."""
    first, second, third = strings
    parts = [first, second[ROOT + STEM :], third[ROOT:]]
    at = [
        torch.arange(len(string))[-len(part) :] for string, part in zip(strings, parts, strict=True)
    ]
    twigs = [len(first) - ROOT - STEM, len(parts[1])]
    branches = [Branch(STEM, twigs), Branch(len(parts[2]))]
    return _run(model, torch.cat(parts), torch.cat(at), [PackedSequence(ROOT, branches)])


def _run(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    sequences: list[PackedSequence],
) -> torch.Tensor:
    tokens, positions = tokens.to(model.device), positions.to(model.device)
    keep = torch.arange(0, len(tokens), KEPT, device=model.device)
    return packed_logits(model, tokens, positions, sequences, keep).float().log_softmax(dim=-1)


def _check_plain(
    model: PreTrainedModel, strings: list[torch.Tensor], alone: list[torch.Tensor]
) -> None:
    """Raises UserError where rows of a batch, or tokens after a position, change what comes before."""
    kept = [ROOT, *(len(string) for string in strings[1:])]
    *others, last = strings
    longer = [*others, last.repeat(4)]
    try:
        rows, ended, padded = (
            torch.cat(logits_alone(model, each, [torch.arange(n) for n in kept]))
            .float()
            .log_softmax(dim=-1)
            for each in (strings, _with_another_end(strings, ROOT), longer)
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        rows = ended = padded = torch.full((1,), float("nan"))
    expected = torch.cat([table[:n] for table, n in zip(alone, kept, strict=True)])
    if (
        not same_to_rounding(rows, expected, model.dtype)
        or not is_unmoved(rows, ended)
        or not is_unmoved(rows, padded, UNMOVED_PADDED)
    ):
        raise UserError(
            f"A model of class {class_name(model)} predicts a token with what follows it, or with"
            " other texts of a batch; take a causal language model."
        )
