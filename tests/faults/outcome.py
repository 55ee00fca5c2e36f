"""How one try has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

Result = Literal["survived", "lost", "silently wrong"]


@dataclass(frozen=True)
class Outcome:
    """One try: what was done, how it ended, and what was seen where it did harm.

    It has survived if what is there is right, or if what is wrong was said in a sentence. It is lost
    after a traceback, after a hang, and where something finished is gone. It is silently wrong where
    something else than before is taken for right.
    """

    what: str
    result: Result
    seen: str = ""


# Tries so often, with all that is random from one source, in a folder of its own.
Kind = Callable[[Random, Path, int], Iterator[Outcome]]
