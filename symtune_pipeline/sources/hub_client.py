"""What goes wrong between this machine and the hub, in sentences, and how often the hub is asked.

The hub's own variables hold: HF_ENDPOINT, HF_HOME for its cache, HF_TOKEN, and HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from tenacity import Retrying

TRIES = 4
TIMEOUT = 10.0  # seconds for an answer
LOG_IN = "with `hf auth login` or HF_TOKEN"
# A disk that is full, and a place that cannot be written.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def hub_answers() -> bool:
    """Whether anything answers at the hub's address; asked once, since that takes seconds."""
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT / 2)
    except (HTTPError, InvalidURL, OfflineModeIsEnabled):
        return False
    return True


def what_keeps_silent() -> tuple[str, str]:
    """Why nothing answers, as the start of a sentence, and what ends that."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set", "unset it"
    return "The hub cannot be reached", "connect"


def asking_again(wait: float) -> Retrying:
    """Asks four times in all where that may help; `wait` seconds after the first, doubled each time."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    return Retrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(wait),
        retry=retry_if_exception(may_pass),
        reraise=True,
    )


def may_pass(error: BaseException) -> bool:
    """Whether asking again may help: no connection, no answer in time, too busy, out of order."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, TransportError)


def reason(error: Exception) -> str:
    """The kind of an error and its first line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def refusal(where: str, error: HfHubHTTPError, entry: str = "its entry in the catalogue") -> str:
    """One sentence: why the hub does not hand out `where`, by its answer, and the way out."""
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RemoteEntryNotFoundError

    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return (
            f"{where} has a licence to accept (status {status}); accept it on its page on the hub and"
            f" log in {LOG_IN}."
        )
    if isinstance(error, DisabledRepoError):
        return f"{where} is disabled on the hub; take another in the catalogue."
    if status in (401, 403):
        return (
            f"{where} is not there or not for everyone's eyes (status {status}); log in {LOG_IN} as"
            f" somebody who may read it, or correct {entry}."
        )
    if isinstance(error, RemoteEntryNotFoundError):
        file = error.response.url.path.rpartition("/")[2]
        return f"{where} lacks the file {file} on the hub; correct {entry}."
    if status == 404:
        return f"{where} is not there ({reason(error)}); correct {entry}."
    return f"The hub answers with status {status} when asked for {where}; try again later."


def no_download(where: str, error: Exception) -> str:
    """One sentence: why `where` was not brought from a hub that answers, and the way out."""
    from huggingface_hub import constants

    answer = refused(error)
    if answer is not None:
        return refusal(where, answer)
    if trouble := disk_trouble(error):
        return (
            f"{where} cannot be kept in the hub's cache, {constants.HF_HUB_CACHE} ({trouble}); make room"
            " there, or set HF_HOME to a folder that can take it."
        )
    *_, first = _causes(error)
    return f"{where} was not downloaded in full ({reason(first)}); start again."


def refused(error: Exception) -> HfHubHTTPError | None:
    """The hub's answer behind an error, if there is one."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((each for each in _causes(error) if isinstance(each, HfHubHTTPError)), None)


def disk_trouble(error: Exception) -> str | None:
    """What the disk says against writing, such as that it is full; None where that is not the error."""
    for cause in _causes(error):
        # A library in Rust passes the number on as text.
        rust = re.search(r"\(os error (\d+)\)", str(cause))
        number = int(rust[1]) if rust else getattr(cause, "errno", None)
        if number in DISK:
            return os.strerror(number)
    return None


def _causes(error: BaseException | None) -> Iterator[Exception]:
    while isinstance(error, Exception):
        yield error
        error = error.__cause__
