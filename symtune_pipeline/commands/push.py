"""`symtune push`: uploads a tuned model to a hub, which the pipeline never does by itself.

The hub's own library finds the address and the token: `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from symtune_pipeline.commands.common import current_experiment, current_store
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment
from symtune_pipeline.sources.hub_client import may_pass, reason, what_keeps_silent
from symtune_pipeline.store.folder import Store

TUNED = "tuned"  # the experiment's own tuned model


def push(
    model: Annotated[str, typer.Argument(help="A model of the experiment.")],
    to: Annotated[str, typer.Option(help="The repository: owner/name.")],
    variant: Annotated[
        str, typer.Option(help="A variant of the experiment in place of its own tuned model.")
    ] = TUNED,
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as private.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Upload. Without it, only list the files.")
    ] = False,
) -> None:
    """Upload a tuned model to a hub.

    Without --yes, only list what would be uploaded.

    Example: symtune push smollm2-135m --to owner/name --private --yes
    """
    folder = tuned_model(current_experiment(), current_store(), model, variant)
    for line in listing(folder):
        typer.echo(line)
    if yes:
        typer.echo(upload(folder, to, private))
    else:
        typer.echo(f"Nothing was uploaded; add --yes to upload this to {to}.")


def tuned_model(experiment: Experiment, store: Store, model: str, variant: str) -> Path:
    """The folder of a tuned model.

    Raises UserError where the experiment has no such model or variant, and where it was not made.
    """
    if variant not in (TUNED, *experiment.variants):
        raise UserError(
            f"Experiment '{experiment.name}' has no variant '{variant}'; choose one of"
            f" {', '.join([TUNED, *experiment.variants])}."
        )
    own = "" if variant == TUNED else f"_{variant}"
    return store.folder(f"symbol_tuned_model{own}", experiment.model(model).key)


def listing(folder: Path) -> list[str]:
    """A line for each file that would be uploaded, with its size, and one for all."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    lines = [f"{size / 1e6:10,.2f} MB  {name}" for name, size in sizes.items()]
    return [*lines, f"{sum(sizes.values()) / 1e6:10,.2f} MB  in {len(sizes)} files"]


def upload(folder: Path, repository: str, private: bool) -> str:
    """Upload into a model repository, made where it does not exist; returns the commit's address.

    Raises UserError where the name is none, and where the hub cannot be reached or refuses.
    """
    from httpx2 import TransportError
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if repository.count("/") != 1:
        raise UserError(f"'{repository}' names no repository; write --to owner/name.")
    if get_token() is None:
        raise UserError("The hub asks for a token; run `hf auth login` or set HF_TOKEN.")
    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Symbol-tuned model"
        )
    except HFValidationError as error:
        raise UserError(
            f"'{repository}' names no repository ({reason(error)}); choose another."
        ) from error
    except HfHubHTTPError as error:
        way_out = "try again later" if may_pass(error) else "see that your token may write there"
        raise UserError(
            f"The hub refused {repository} with status {error.response.status_code}; {way_out}, and push"
            " again."
        ) from error
    except (TransportError, OfflineModeIsEnabled) as error:
        silence, way_out = what_keeps_silent()
        raise UserError(f"{silence} ({reason(error)}); {way_out} and push again.") from error
    except OSError as error:
        raise UserError(
            f"{folder} cannot be uploaded ({reason(error)}); see to it and push again."
        ) from error
    return str(commit.commit_url)
