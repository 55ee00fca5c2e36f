"""On which addresses processes listen, while they run."""

from __future__ import annotations

from contextlib import suppress
from threading import Event, Thread

import psutil

HERE = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def listening(process: int) -> set[tuple[str, str]]:
    """The addresses on which a process and all that it has started listen, each with the command."""
    found = set()
    with suppress(psutil.Error):
        parent = psutil.Process(process)
        for each in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):  # it has just ended
                command = " ".join(each.cmdline())[:120]
                for socket in each.net_connections("inet"):
                    if socket.status == psutil.CONN_LISTEN or (not socket.raddr and socket.laddr):
                        found.add((socket.laddr.ip, command))
    return found


class Watch:
    """What a process and all that it starts listen on, from beginning to end."""

    def __init__(self, process: int, seconds: float = 0.2) -> None:
        self.found: set[tuple[str, str]] = set()
        self._process, self._seconds, self._over = process, seconds, Event()
        self._thread = Thread(target=self._look)

    @property
    def beyond(self) -> list[tuple[str, str]]:
        """What listens on other addresses than this machine's own."""
        return sorted(each for each in self.found if each[0] not in HERE)

    def _look(self) -> None:
        while not self._over.wait(self._seconds):
            self.found |= listening(self._process)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
