"""What a model in half precision predicts, computed in float32 from its last hidden states.

In bf16 a logit between 16 and 32 is one of 128 values, so that labels tie which the model can tell apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor

from symtune_pipeline.errors import is_out_of_memory
from symtune_pipeline.models.trial import random_strings, run_alone, same_to_rounding

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def predict_in_float32(model: PreTrainedModel) -> None:
    """Give a model that is only asked an LM head in float32, which costs 4 bytes a weight of it.

    The model attends with transformers' own attention. A class stays as it is that has no such head,
    that shares it among ranks, or that does not predict the same with it, to rounding.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or isinstance(head.weight, DTensor):
        return
    if head.weight.dtype.itemsize >= 4:
        return
    string = random_strings(model)[0]
    expected, halved = run_alone(model, string), dict(head.named_parameters())
    for name, values in halved.items():  # new ones: the input embeddings may be the same parameter
        setattr(head, name, torch.nn.Parameter(values.float(), requires_grad=False))
    widening = head.register_forward_pre_hook(lambda _, hidden: (hidden[0].float(),))
    try:
        right = same_to_rounding(run_alone(model, string), expected, model.dtype)
    except Exception as error:  # whatever a class does with its head that nobody has tried
        if is_out_of_memory(error):
            raise
        right = False
    if not right:
        widening.remove()
        for name, values in halved.items():
            setattr(head, name, values)
