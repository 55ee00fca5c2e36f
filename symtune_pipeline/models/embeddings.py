"""The input embeddings of texts, read from a model's folder without loading the rest of the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from symtune_pipeline.errors import UserError
from symtune_pipeline.models.opening import open_model


def mean_embeddings(folder: Path, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The mean input embedding of each text's token ids: shape [texts, hidden]; 0 for a text without.

    Raises UserError where the weights have no tensor of the model's input embeddings, or one that is
    too small for a token.
    """
    table = _input_embeddings(folder)
    largest = max((max(ids, default=0) for ids in texts), default=0)
    if largest >= len(table):
        raise UserError(
            f"The tokenizer in {folder} has token {largest}, and the model knows {len(table)} tokens; put"
            " the model's own tokenizer there."
        )
    lengths = torch.tensor([len(ids) for ids in texts])
    flat = torch.tensor([token for ids in texts for token in ids], dtype=torch.long)
    sums = torch.zeros(len(texts), table.shape[1])
    sums.index_add_(0, torch.arange(len(texts)).repeat_interleave(lengths), table[flat].float())
    found: NDArray[np.float32] = (sums / lengths.clamp(min=1)[:, None]).numpy()
    return found


def _input_embeddings(folder: Path) -> torch.Tensor:
    """The table [vocabulary, hidden]; in a file its name may have another beginning than in the model."""
    model = open_model(folder, torch.float32, "meta")
    own = model.get_input_embeddings().weight
    name, shape = next((name, p.shape) for name, p in model.named_parameters() if p is own)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                same = f".{name}".endswith(f".{key}") or f".{key}".endswith(f".{name}")
                if same and file.get_slice(key).get_shape() == list(shape):
                    found: torch.Tensor = file.get_tensor(key)
                    return found
    raise UserError(
        f"The weights in {folder} have no tensor '{name}' of {shape[0]} embeddings; set"
        " symbols.spread to random."
    )
