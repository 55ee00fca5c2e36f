"""Progress of long work as lines of text that any log can hold: done, speed, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def to_stderr(line: str) -> None:
    """Print a line where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Says every `every` seconds how far the work is: '42% of 440 queries, 1 min 10 s left'."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        say: Callable[[str], None] = to_stderr,
        every: float = 10.0,
    ) -> None:
        self.what, self.total, self.unit, self.say, self.every = what, total, unit, say, every
        self.started = self.said = time.monotonic()
        self.begun = 0

    def resume(self, done: int) -> None:
        """Work that an earlier run had done; it does not count for the speed."""
        self.begun = done

    def __call__(self, done: int, detail: str = "") -> None:
        """Report that `done` of the total are done; prints at most every `every` seconds."""
        now = time.monotonic()
        if now - self.said < self.every and done < self.total:
            return
        self.said = now
        speed = max(done - self.begun, 1) / max(now - self.started, 1e-9)
        left = duration((self.total - done) / speed)
        state = f"{left} left" if done < self.total else f"done in {duration(now - self.started)}"
        more = f", {detail}" if detail else ""
        self.say(
            f"{self.what}: {done / max(self.total, 1):.0%} of {self.total:,} {self.unit}{more}, {state}"
        )


def duration(seconds: float) -> str:
    """'8 s', '1 min 10 s', '2 h 5 min' or, from two days on, '3 d 4 h'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 48 * 60:
        return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
