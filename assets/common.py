"""What the assets share: the partitions, code versions, and how a user error is shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from symtune_pipeline import catalog
from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import Experiment

MODELS = dg.StaticPartitionsDefinition(list(catalog.models()))
LIBRARY = Path(catalog.__file__).parent.parent


def code_version(experiment: Experiment, sections: tuple[str, ...], *files: str) -> str:
    """Changes when the experiment's sections or the library's `files` (paths in it) change."""
    digest = hashlib.sha256(experiment.version(*sections).encode())
    for file in files:
        digest.update((LIBRARY / file).read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def user_errors() -> Iterator[None]:
    """Fail the step with a user error's sentence, without retries and without a traceback of ours."""
    try:
        yield
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
