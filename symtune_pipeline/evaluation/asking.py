"""How a model is asked: in passes, each of which holds queries that run together.

Which queries a pass holds depends on the suite and the model only. So an answer does not depend on who
asks the other passes, nor on where an interrupted evaluation was. This module knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

Pass = TypeVar("Pass")
Answer = TypeVar("Answer")
Found = TypeVar("Found")
Done = Callable[[int], None]  # is told how many queries are answered

# Tokens of a pass of scoring, by the device alone, so that a GPU gives the numbers of another one of its
# kind. More are no faster on a CPU, and only take memory; on a GPU they are hardly faster.
PASS_TOKENS = {"cpu": 2_048, "cuda": 32_768}
BATCH = 40  # prompts that are completed together


class Team(Protocol):
    """The ranks that hold a model together."""

    def open(self, folder: Path, dtype: Any, attention: str | None) -> Any:
        """The model in a folder, of which this rank holds a share."""

    def answering(self, answer: Callable[[Pass], Answer]) -> Callable[[Pass], Answer]:
        """`answer`, for a pass that all ranks of the team run at once."""


class Asking:
    """Asks all passes, one after another, in this process.

    Where there is a `team`, its ranks hold a model together.
    """

    team: Team | None = None

    def kept_in(self) -> str:
        """Where answers are kept from one start to the next; empty where they are not."""
        return ""

    def together(self, work: Callable[[], Found]) -> Found:
        """What `work` returns; where others ask too, its UserError is that of all."""
        return work()

    def all(
        self,
        passes: Sequence[Pass],
        answer: Callable[[Pass], Answer],
        queries: Callable[[Pass], int],
        progress: Done,
        how: str,
    ) -> list[Answer]:
        """The answers to all passes, in their order.

        An answer is made of lists, numbers and texts. `queries` counts those of a pass, `progress` is
        told how many are answered, and `how` says how the model is run, which must be the same for all
        who ask.
        """
        answers, done = [], 0
        for each in passes:
            answers.append(answer(each))
            done += queries(each)
            progress(done)
        return answers


ALONE = Asking()
