"""Opens a causal model's folder, for scoring, generation and tuning alike.

What a folder says of other programs is not obeyed: no code, no adapter, no quantisation, no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from symtune_pipeline.errors import UserError, is_out_of_memory
from symtune_pipeline.files import parse_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# What transformers notes of how a tokenizer was loaded, and would write; and code that it names.
OF_LOADING = ("auto_map", "is_local", "local_files_only", "_commit_hash", "_from_auto")

SLACK = 1_000_000  # parameters that a folder may lack before it is another model's

# Its bars show the loading of weights; progress that matters is reported by our own lines.
logging.disable_progress_bar()


def open_model(
    folder: Path, dtype: torch.dtype, device: str, attention: str | None = "eager"
) -> PreTrainedModel:
    """A causal model from a local folder of safetensors, with the attention that is named.

    None is the fastest of transformers' own that the class supports. Raises UserError for a folder
    that transformers loads only with code, packages or weights that are not there.
    """
    config = read_config(folder)
    try:
        if device == "meta":
            with torch.device(device):
                return AutoModelForCausalLM.from_config(  # type: ignore[no-any-return]
                    config, dtype=dtype, attn_implementation=attention
                )
        _check_size(folder, config)
        # For bandit, here and below: a folder has no revision.
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # nosec B615
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except UserError:
        raise
    except Exception as error:  # what a class makes of a configuration that nobody has tried
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"The model in {folder} does not load ({_first_line(error)}); put a causal language model"
            " there as transformers' save_pretrained writes it."
        ) from error
    model, found = loaded
    _check_weights(folder, type(model).__name__, found)
    model.to(torch.device(device))
    return model  # type: ignore[no-any-return]


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration of a causal model that transformers loads by itself; else a UserError."""
    path = folder / "config.json"
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"Folder {folder} has an adapter (adapter_config.json), which would change the model; merge"
            " it into its base, or remove the file where that is done."
        )
    try:
        written = parse_json(path.read_bytes())
        config = AutoConfig.from_pretrained(  # nosec B615
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of transformers' own checks, which differ by class
        raise UserError(
            f"File {path} describes no model that transformers loads without code of its own"
            f" ({_first_line(error)}); take another model."
        ) from error
    quantised = written.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "?"
        raise UserError(
            f"The weights in {folder} are quantised ({method}, says config.json); put the model there"
            " in full or half precision."
        )
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(
            f"File {path} describes a model of type '{config.model_type}', which is no causal language"
            " model of transformers; take another model."
        )
    return config  # type: ignore[no-any-return]


def context_of(config: PretrainedConfig) -> int | None:
    """The most tokens of a text, as a model's configuration says; None where its class has no limit."""
    most: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return most


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder; raises UserError where transformers makes none of it.

    What it would write when saved depends neither on how it was loaded nor on the folder's programs.
    """
    try:
        if not (folder / "tokenizer_config.json").exists():
            # A class that is guessed from the model's would add tokens and rules of its own.
            return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        tokenizer = AutoTokenizer.from_pretrained(  # nosec B615
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer("a")  # some settings are wrong only when it is used
        return _alone(tokenizer)
    except Exception as error:  # of transformers and tokenizers, which raise bare ones too
        raise UserError(
            f"The tokenizer in {folder} does not load ({_first_line(error)}); put it there as"
            " transformers' save_pretrained writes it."
        ) from error


def open_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a GGUF file, in float32, whatever else lies beside it."""
    with TemporaryDirectory() as folder:
        Path(folder, path.name).symlink_to(path.absolute())
        model = AutoModelForCausalLM.from_pretrained(  # nosec B615
            folder,
            gguf_file=path.name,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(  # nosec B615
            folder, gguf_file=path.name, local_files_only=True, trust_remote_code=False
        )
    return model, _alone(tokenizer)


def _alone(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    for name in OF_LOADING:
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def check_vocabulary(model: PreTrainedModel, tokens: Iterable[int]) -> None:
    """Raises UserError where a token is beyond the model's vocabulary."""
    size = vocabulary(model)
    largest = max(tokens, default=0)
    if largest >= size:
        raise UserError(
            f"A prompt has token {largest}, and model {model.name_or_path} knows {size} tokens; its"
            " tokenizer is that of another model: put the right one into its folder."
        )


def vocabulary(model: Any) -> int:
    """How many tokens the model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def _check_size(folder: Path, config: PretrainedConfig) -> None:
    """Raises UserError where config.json asks for far more than the weights hold, before it is made."""
    tensors, numbers = 0, 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors += len(names)
            numbers += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    wanted = 0
    if layers <= tensors:
        with torch.device("meta"):
            own = deepcopy(config)  # which the class may change
            model = AutoModelForCausalLM.from_config(own, attn_implementation="eager")
        wanted = sum(parameter.numel() for parameter in model.parameters())
    if layers > tensors or wanted > 2 * numbers + SLACK:
        asked = f"{wanted:,} parameters" if wanted else f"{layers:,} layers"
        raise UserError(
            f"File {folder / 'config.json'} asks for {asked}, and the weights hold {numbers:,} numbers in"
            f" {tensors:,} tensors; put the configuration there that the weights were saved with."
        )


def _check_weights(folder: Path, class_name: str, found: dict[str, Any]) -> None:
    """Raises UserError for weights that transformers has drawn at random, or left out."""
    for key, trouble in (
        ("missing_keys", "lack weights of"),
        ("mismatched_keys", "have other shapes than"),
        ("unexpected_keys", "are not all those of"),
    ):
        names = sorted(str(n[0] if isinstance(n, tuple) else n) for n in found.get(key) or ())
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"The weights in {folder} {trouble} {class_name}, which config.json names (first:"
                f" {names[0]}{more}); save the whole model with transformers' save_pretrained."
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().split("\n")
    return lines[0].strip().rstrip(".:") or type(error).__name__
