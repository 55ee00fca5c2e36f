"""Nothing that is started listens beyond this machine: the sockets of all of it, while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
from launching import descendants, launch
from tiny_models import tiny_job

from resources.launcher import LocalLauncher, RayLauncher, TorchrunLauncher

HERE = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def listeners(processes: Callable[[], list[int]]) -> set[tuple[str, str]]:
    """The addresses on which processes listen, each with the command."""
    found = set()
    for process in processes():
        with suppress(psutil.Error):  # it has just ended
            command = " ".join(psutil.Process(process).cmdline())[:120]
            for each in psutil.Process(process).net_connections("inet"):
                if each.status == psutil.CONN_LISTEN or (not each.raddr and each.laddr):
                    found.add((each.laddr.ip, command))
    return found


@pytest.mark.parametrize(
    "launcher",
    [
        LocalLauncher(),
        TorchrunLauncher(processes=2),
        pytest.param(RayLauncher(workers=2), marks=pytest.mark.slow),
    ],
    ids=lambda launcher: launcher.kind,
)
def test_no_launcher_listens_beyond_this_machine(
    launcher: LocalLauncher | TorchrunLauncher | RayLauncher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if launcher.kind != "ray":  # whose sockets would have too long a name
        monkeypatch.setenv("TMPDIR", str(tmp_path))
    found: set[tuple[str, str]] = set()
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.05):
            found.update(listeners(lambda: descendants(os.getpid())))

    thread = Thread(target=watch)
    thread.start()
    try:
        assert launch(launcher, tiny_job(tmp_path, epochs=2)).result
    finally:
        ended.set()
        thread.join()
    assert launcher.kind == "local" or found, "ranks speak with each other"
    assert [each for each in sorted(found) if each[0] not in HERE] == []
    assert not list(tmp_path.glob("symtune-ranks-*"))
