"""The answers of one model, kept pass by pass, so that several ranks share the work and none is done twice.

    <folder>/<rank>-<random>.jsonl    a line for each pass: its number and its answer

A pass belongs to the rank that its number, modulo the number of ranks, names. Every process appends to a
file of its own and reads those of all, also of earlier runs on another number of ranks. A line that a
kill has cut off is ignored, and its pass is asked again. Where ranks hold a model together, a pass belongs
to all of a team, and the team's first rank writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from symtune_pipeline.errors import UserError
from symtune_pipeline.evaluation.asking import Answer, Asking, Done, Found, Pass
from symtune_pipeline.evaluation.spread import RankTeam
from symtune_pipeline.jobs.ranks import Ranks
from symtune_pipeline.store.bucket import Bucket

LOOK = 10.0  # seconds until a rank looks again how far the others are
SAVE = 60.0  # seconds until answers are copied to the bucket again


@dataclass(frozen=True)
class KeptAnswers(Asking):
    """Asks the passes of this rank that have no answer yet; `folder` is one that all ranks see.

    `going_on` is told how many queries were answered before, if any. Where there is a `bucket`, the
    answers are kept below its prefix too.
    """

    folder: Path
    ranks: Ranks
    going_on: Done
    bucket: Bucket | None = None
    team: RankTeam | None = None

    def kept_in(self) -> str:
        """As of `Asking`."""
        return str(self.folder)

    def together(self, work: Callable[[], Found]) -> Found:
        """What `work` returns on this rank; raises UserError where it does so on any.

        Within the work of a team the others wait for this rank, and cannot be told: it ends, and with it
        the job.
        """
        if self.team is None:
            return self.ranks.together(work)
        found = work()
        self.ranks.barrier()
        return found

    def all(
        self,
        passes: Sequence[Pass],
        answer: Callable[[Pass], Answer],
        queries: Callable[[Pass], int],
        progress: Done,
        how: str,
    ) -> list[Answer]:
        """As of `Asking`, on every rank.

        Raises UserError where one rank does, where ranks run the model in different ways, and where
        they do not see each other's answers.
        """
        if len(set(self.ranks.all_gather((len(passes), how)))) > 1:
            raise UserError(
                "The ranks of the evaluation run the model in different ways; start them on machines of"
                " one kind, with the same packages and the same files."
            )
        sizes = [queries(each) for each in passes]

        self.ranks.together(self._prepare)
        done = self.ranks.broadcast(lambda: set(self._read()))  # the same for all of a team
        told = self.together(lambda: self._ask_own(passes, answer, sizes, progress, done))
        known = self._read()
        missing = [number for number in range(len(passes)) if number not in known]
        if missing:
            _, teams, size = self._turn
            raise UserError(
                f"Rank {missing[0] % teams * size} has answered and its answers are not in"
                f" {self.folder}; give the job a folder that all its machines see."
            )
        if told < sum(sizes):
            progress(sum(sizes))
        return [known[number] for number in range(len(passes))]

    @property
    def _turn(self) -> tuple[int, int, int]:
        """Which passes are this rank's: each that leaves the first when divided by the second.

        The third is how many ranks share a turn.
        """
        if self.team:
            return self.team.number, self.team.count, self.team.size
        return self.ranks.rank, self.ranks.count, 1

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.bucket:
            self.bucket.download_folder(self.folder.name, self.folder)

    def _ask_own(
        self,
        passes: Sequence[Pass],
        answer: Callable[[Pass], Answer],
        sizes: Sequence[int],
        progress: Done,
        done: set[int],
    ) -> int:
        """Returns how many queries `progress` was told that have an answer."""
        told = 0
        if done:
            self.going_on(sum(sizes[number] for number in done))
        first, teams, _ = self._turn
        own = [number for number in range(first, len(passes), teams) if number not in done]
        writes = self.team is None or self.team.leads
        path = self.folder / f"{self.ranks.rank}-{uuid4().hex[:8]}.jsonl"
        looked = saved = time.monotonic()
        with (path if writes else Path(os.devnull)).open("a", encoding="utf-8") as file:
            for number in own:
                file.write(f"{json.dumps([number, answer(passes[number])])}\n")
                file.flush()
                done.add(number)
                now = time.monotonic()
                if now - looked > LOOK:
                    done |= set(self._read())
                    looked = now
                if writes and now - saved > SAVE:
                    self._save(path)
                    saved = now
                told = sum(sizes[number] for number in done)
                progress(told)
        if writes:
            self._save(path)
        return told

    def _save(self, path: Path) -> None:
        if self.bucket:
            self.bucket.write(f"{self.folder.name}/{path.name}", path.read_bytes())

    def _read(self) -> dict[int, Any]:
        """The answers in all files, by the number of their pass."""
        known: dict[int, Any] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                try:
                    number, answer = json.loads(line)
                except (ValueError, TypeError):  # cut off, or lost by the disk
                    continue
                known.setdefault(number, answer)
        return known
