"""The environment: the only module that reads our variables.

SYMTUNE_EXPERIMENT  an experiment's name in experiments/, or the path of a file
SYMTUNE_MIRROR      a folder or an s3:// prefix with the hub's layout, read in place of the hub
SYMTUNE_LAUNCHER    what starts the jobs: a name in launchers/, or the path of a file
SYMTUNE_HOME        where tables, models and reports are kept: a folder (default: .symtune) or
                    s3://<bucket>/<prefix>, with boto3's settings, such as the AWS_ variables
SYMTUNE_CACHE       the local folder for copies of what is kept on s3, and for unfinished work
                    (default: symtune in the user's folder for caches)
SYMTUNE_GIT_TREE    the address of this code's branch, where assets link to it
OPENAI_API_KEY      what a server of models is shown that asks for a key
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from symtune_pipeline.errors import UserError
from symtune_pipeline.experiment import INSTALLED, LIBRARY
from symtune_pipeline.store.bucket import Bucket


def experiment_name() -> str:
    """The experiment that SYMTUNE_EXPERIMENT names; quickstart where it names none."""
    return os.environ.get("SYMTUNE_EXPERIMENT") or "quickstart"


def choose_experiment(name: str) -> None:
    """Make an experiment the one that SYMTUNE_EXPERIMENT names, here and in what this process starts."""
    os.environ["SYMTUNE_EXPERIMENT"] = name


def import_from(folder: Path) -> None:
    """Let the Python programs that this process starts import what lies in a folder."""
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([others] if others else [])])


def mirror_folder() -> str | None:
    """The mirror that SYMTUNE_MIRROR names: a folder or an s3:// prefix."""
    return os.environ.get("SYMTUNE_MIRROR") or None


def launcher_name() -> str:
    """The launcher that SYMTUNE_LAUNCHER names: a matter of the machine, not of the experiment."""
    return os.environ.get("SYMTUNE_LAUNCHER") or "local"


def endpoint_key() -> str | None:
    """The key that OPENAI_API_KEY holds; raises UserError where no HTTP header can carry it."""
    key = os.environ.get("OPENAI_API_KEY") or None
    if key and not (key.isascii() and key.isprintable()):
        raise UserError(
            "OPENAI_API_KEY holds a line break or another character that no key has; set it again."
        )
    return key


def git_tree() -> str | None:
    """The address of the code's branch that SYMTUNE_GIT_TREE names, for links in the UI."""
    return os.environ.get("SYMTUNE_GIT_TREE") or None


def incoming_folder() -> Path:
    """Where others drop model folders that are to be evaluated."""
    return home_folder() / "incoming"


def home_folder() -> Path:
    """Where everything that the pipeline makes is kept; the cache of it, where it is kept on s3."""
    url = home_url()
    if url is None:
        default = user_data_path("symtune") if INSTALLED else LIBRARY.parent / ".symtune"
        return Path(os.environ.get("SYMTUNE_HOME") or default).resolve()
    cache = Path(os.environ.get("SYMTUNE_CACHE") or user_cache_path("symtune")).resolve()
    return cache / url.removeprefix("s3://")


def home_variable() -> str:
    """The variable that says on which disk `home_folder` is."""
    return "SYMTUNE_CACHE" if home_url() else "SYMTUNE_HOME"


def home_url() -> str | None:
    """The s3:// prefix that SYMTUNE_HOME names, None where it names a folder.

    Raises UserError where it names another kind of place.
    """
    home = os.environ.get("SYMTUNE_HOME") or ""
    return Bucket(home).url() if "://" in home else None


def is_first_rank() -> bool:
    """Whether this process is alone, or the first of those of all machines that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"
