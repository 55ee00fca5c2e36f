"""How a command ends that somebody stops: Ctrl-C is SIGINT, and a plain `kill` is SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from symtune_pipeline.errors.disk import disk_sentence

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_signals: list[int] = []  # the signals of a command, in their order
_inbox: list[int] = []  # the file descriptor from which they are read


def run_command(work: Callable[[], int], message: str) -> int:
    """Do a command's work; returns its exit status: 130 after Ctrl-C and 143 after SIGTERM.

    After a signal `message` is printed instead of a traceback. A second Ctrl-C is ignored, as a
    terminal and a launcher may each send one; a second SIGTERM ends the process at once. Where the
    disk is full or refuses, a sentence says so, and the status is 2.
    """
    with _listening():
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return work()
        except BaseException as error:
            # Not every library lets the exception of a signal through as it is.
            if not (interrupted() or isinstance(error, KeyboardInterrupt)):
                sentence = disk_sentence(error) if isinstance(error, Exception) else None
                if sentence is None:
                    raise
                print(f"error: {sentence}", file=sys.stderr, flush=True)
                return 2
    if message:
        print(message, file=sys.stderr, flush=True)
    return status()


def wait_for_next_program() -> None:
    """Let signals wait until the program that takes this one's place runs its own command.

    While an interpreter starts, Python answers a signal with a traceback.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


@contextmanager
def starting_program() -> Iterator[None]:
    """Let the signals of a program that is started here wait until it runs its own command, likewise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def unbroken() -> Iterator[None]:
    """Let a signal wait for the end of what runs here, such as imports or a call of an extension module.

    An extension module may abort the process, or print a trace of its own, where a signal breaks it off.
    """
    if current_thread() is not main_thread():  # which alone hears signals
        yield
        return
    waiting: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: waiting.append(number))
        for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def interrupted() -> bool:
    """Whether a signal has asked this command to end, whoever handles it."""
    for inbox in _inbox:
        try:
            _signals.extend(os.read(inbox, 64))
        except BlockingIOError:  # none is waiting
            continue
    return bool(_signals)


def status() -> int:
    """The exit status of a command that was interrupted, as shells count it."""
    return 128 + (_signals[0] if interrupted() else signal.SIGINT)


@contextmanager
def _listening() -> Iterator[None]:
    """Hear SIGINT and SIGTERM, and raise KeyboardInterrupt for both.

    The interpreter writes their numbers into a pipe, also where Dagster, Ray or torchrun handles
    them meanwhile: Dagster takes the one for the other and tells no one which it was.
    """
    inbox, outbox = os.pipe()
    os.set_blocking(inbox, False)
    os.set_blocking(outbox, False)
    _signals.clear()
    _inbox[:] = [inbox]
    before = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    others = signal.set_wakeup_fd(outbox, warn_on_full_buffer=False)
    hook = sys.unraisablehook

    def quiet(unraisable: sys.UnraisableHookArgs) -> None:
        """The exception of a signal that came in a callback, where Python drops and prints it."""
        if not interrupted():
            hook(unraisable)

    sys.unraisablehook = quiet
    if logging.lastResort:
        logging.lastResort.addFilter(_is_news)
    try:
        yield
    finally:
        if logging.lastResort:
            logging.lastResort.removeFilter(_is_news)
        sys.unraisablehook = hook
        signal.set_wakeup_fd(others)
        if interrupted():
            # For good: Python would answer a further signal at its own end with a traceback.
            _stop_listening_to_more()
        else:
            for number, handler in before.items():
                signal.signal(number, handler)
        _inbox.clear()
        os.close(inbox)
        os.close(outbox)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a library logs something else than the exception of a signal that met it, as pools do."""
    return not (interrupted() and record.exc_info and record.exc_info[0] is KeyboardInterrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _stop_listening_to_more()
    raise KeyboardInterrupt


def _stop_listening_to_more() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
