"""Every causal class of the installed transformers, tiny and random: which path is right for it.

    PYTHONPATH=.:tests python tests/models/scan.py > docs/models.md

Each is scored, tuned and made to generate, and compared with each whole string run alone.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tiny_models import SETTINGS, random_blocks, reference_logprobs, reference_model
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.scorer import score
from symtune_pipeline.models.generating import choose_generating
from symtune_pipeline.models.loading import load_model
from symtune_pipeline.models.opening import open_model
from symtune_pipeline.models.proof import attention_of
from symtune_pipeline.models.trees import Query, Tree
from symtune_pipeline.tuning.step import Block, block_loss

MOST_PARAMETERS = 5_000_000
# Under whatever name a configuration has them. Windows, chunks and sparse choices are smaller than the
# strings of the scan, so that they hide something.
SMALL: dict[str, Any] = SETTINGS | {
    **dict.fromkeys(("d_model", "n_embd", "hidden_size", "embedding_size"), 32),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_ffn_dim", "ffn_dim", "dff", "dim_feedforward", "d_inner"), 64),
    **dict.fromkeys(("encoder_layers",), 1),
    **dict.fromkeys(("encoder_ffn_dim",), 64),
    **dict.fromkeys(("encoder_attention_heads",), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "mamba_d_state", "state_size"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head"), 8),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "attention_window"), 9),
    **dict.fromkeys(("index_topk", "keep_window_size", "max_cache_len"), 4),
    "n_positions": 256,
    "num_experts_per_tok": 2,
    "mamba_expand": 2,
    "rotary_dim": 4,
    "is_decoder": True,
}
# Where a class wants more: by type, and a second configuration after a colon.
LATENT = {"num_key_value_heads": 4}  # attention over a latent has keys for every head
ATTENDING = {"layer_types": ["linear_attention", "full_attention"]}
MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"), LATENT
    ),
    **dict.fromkeys(
        ("glm_moe_dsa", "longcat_flash", "minicpm3", "dots1", "dots3_note_text", "youtu"), LATENT
    ),
    "kimi_linear": ATTENDING | LATENT | {"linear_head_dim": 16, "linear_num_heads": 4},
    **dict.fromkeys(("granitemoehybrid", "qwen3_next", "qwen3_5_text"), ATTENDING),
    "bamba": {"attn_layer_indices": [1]},
    "bert:bidirectional": {"is_decoder": False},
    "falcon:alibi": {"alibi": True},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 9},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "llama:dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    },
    "qwen2:window": {"use_sliding_window": True, "max_window_layers": 1},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
}


@dataclass(frozen=True)
class Found:
    """What the scan found of one configuration."""

    name: str
    class_name: str
    path: str  # as `attention_of`, or a sentence
    generation: str
    worst: float  # difference from the whole string alone, in nats or in a gradient


def configurations() -> list[str]:
    """Names: a model type, or one with a word after a colon."""
    return sorted({*CLASSES, *MORE})


def make(name: str, folder: Path) -> None:
    """Save a tiny random model; raises whatever transformers raises for one that cannot be small."""
    kind = name.split(":")[0]
    default = AutoConfig.for_model(kind)
    known = {*default.to_dict(), *getattr(default, "attribute_map", {})}
    settings = {key: value for key, value in SMALL.items() if key in known}
    config = AutoConfig.for_model(kind, **settings | MORE.get(kind, {}) | MORE.get(name, {}))
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"{parameters:,} parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # a router of zeros would choose experts by chance
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)


def trees(vocabulary: int) -> list[Tree]:
    """Two contexts longer than all windows, with labels of one to three tokens."""
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(1, vocabulary) for _ in range(count)]

    labels = [tokens(1), tokens(3), tokens(2)]
    return [Tree(tokens(n), [Query(tokens(k), labels) for k in (3, 5, 4)]) for n in (14, 21)]


def scored_alone(model: Any, tree: Tree) -> list[list[float]]:
    return [
        [
            float(reference_logprobs(model, [*tree.prefix, *q.tokens, *label])[-len(label) :].sum())
            for label in q.labels
        ]
        for q in tree.queries
    ]


def worst_of_scores(folder: Path) -> float:
    alone, ours = reference_model(folder), load_model(folder, torch.float32, "cpu").eval()
    asked = trees(min(90, alone.get_input_embeddings().weight.shape[0]))
    with torch.no_grad():
        expected = [scored_alone(alone, tree) for tree in asked]
    found = score(ours, asked)
    return float((torch.tensor(found) - torch.tensor(expected)).abs().max())


def worst_of_losses(folder: Path) -> float:
    """Of the loss of a block and of its gradients, relative to the largest of each parameter."""
    (row,) = random_blocks(count=1, prompts=4, length=24).rows(named=True)
    ours, alone = load_model(folder, torch.float32, "cpu").eval(), reference_model(folder)
    block = Block.from_row(row, "all_labels", len(row["tokens"]) + 7)
    found = block_loss(ours, block, "fp32")[0]
    found.backward()
    expected = torch.zeros(())
    start = 0
    for length in row["sequence_lengths"]:
        logprobs = reference_logprobs(alone, row["tokens"][start : start + length])
        inside = [p - start - 1 for p in block.targets.tolist() if start <= p < start + length]
        expected = expected - logprobs[inside].sum()
        start += length
    expected.backward()
    gradients = {name: p.grad for name, p in alone.named_parameters() if p.grad is not None}
    worst = abs(found.item() - expected.item()) / len(block.targets)
    for name, parameter in ours.named_parameters():
        if name in gradients:
            assert parameter.grad is not None, name
            scale = max(1.0, float(gradients[name].abs().max()))
            worst = max(worst, float((parameter.grad - gradients[name]).abs().max()) / scale)
    return worst


def generation_of(folder: Path) -> str:
    try:
        return str(choose_generating(open_model(folder, torch.float32, "cpu", None).eval()))
    except UserError as error:
        return str(error)


@cache
def found(name: str) -> Found | str:
    """What the scan finds of a configuration, or why transformers makes no tiny model of it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            make(name, folder)
        except Exception as error:
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        class_name = CLASSES[name.split(":")[0]]
        try:
            path = attention_of(load_model(folder, torch.float32, "cpu"))
        except UserError as error:
            return Found(name, class_name, str(error).replace(temporary, "…"), "", 0.0)
        worst = max(worst_of_scores(folder), worst_of_losses(folder))
        return Found(name, class_name, path, generation_of(folder), worst)


PAGE = """# Which models work

For everyone who brings a model. Example: *does Mamba work?* Yes. It runs on the plain path: the same
numbers, but slower.

- **To tune your own model**, add it to the catalogue ([extending/model.md](extending/model.md)). It must be
  on the hub, or in the hub's cache on this machine.
- **To evaluate a model in a folder**, start a job, once an experiment has the asset `eval`
  ([deployment.md](deployment.md#evaluate-a-model-folder)). It cannot be tuned from there.

This command loads the model in a folder, tries how it runs, and says why:

```
symtune show model FOLDER
```

For a model of the catalogue, `symtune show model smollm2-135m` shows its entry and how its last
evaluation ran it.

A model is checked when it is loaded. A few short random strings are run one by one, with transformers' own
attention. The same strings are then run packed, as in tuning, and as a tree of labels, as in scoring.

- **packed**: the numbers agree.
- **plain**: its layers let one text see another (state spaces, convolutions, linear attention, position
  biases). Every prompt with every label is run in a row of its own.
- **refused**: no way gives the right numbers. One sentence says why.

Generation is checked in the same way. Prompts are run in batches, where the queries of a concept may share
their beginning; or one by one; or one by one without a cache.

Sliding windows, chunks, capped scores and attention sinks are exact on both paths.

The report, the metadata of the predictions and their column `path` say how each variant ran.

A folder must contain the whole model in safetensors, in full or half precision, and its tokenizer. These
are refused with a reason: missing or surplus weights, adapters, quantised weights, and code in the folder.
`tuning.lora` is refused for a class that takes no adapters, such as Mamba.
`tuning.trainable` is refused for a class whose projections of attention are not known: those of BERT have
other names, and in DeepSeek V3 keys and values share a matrix.
`tuning.activation_checkpointing` is refused for a class without it, such as the first GPT.

The table lists tiny random models of the causal classes of transformers {version}. The log-probabilities of
their labels, their losses and their gradients differ by less than 0.0001 from those of whole strings run
alone. `tests/models/scan.py` prints this page.

| type | class | scoring and tuning | generation |
| --- | --- | --- | --- |
{rows}

Not in the table, because their default configuration cannot be made small, or because they are not for text
alone:
{rest}.
"""


def page() -> str:
    """The page of the docs."""
    results = {name: found(name) for name in configurations()}
    rows = [
        f"| {f.name} | {f.class_name} | {f.path.split(' (')[0] if f.generation else 'refused'}"
        f" | {generation_text(f)} |"
        for f in results.values()
        if isinstance(f, Found)
    ]
    rest = ", ".join(f"`{name}`" for name, f in results.items() if isinstance(f, str))
    return PAGE.format(version=version("transformers"), rows="\n".join(rows), rest=rest)


def generation_text(of: Found) -> str:
    return "refused" if not of.generation or of.generation.startswith("A model") else of.generation


if __name__ == "__main__":
    print(page(), end="")
