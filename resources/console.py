"""A console log for people: the time and what is said, a line each."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from traceback import TracebackException
from types import TracebackType
from typing import Any

import dagster as dg
from dagster._check import CheckError
from dagster._core.errors import DagsterInvalidSubsetError
from dagster_shared.error import SerializableErrorInfo

from symtune_pipeline.errors import UserError

# The way out of a selection or a partition that there is not.
LISTED = "`dg list defs` lists the assets, and partitions are the models of the experiment"

UNNAMED = (
    "The assets have a partition for each model; add --partition and a model of the experiment."
)


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        text = meta.get("orig_message") or record.getMessage()
        return f"{self.formatTime(record, '%H:%M:%S')}  {text}"


@dg.logger(config_schema={"log_level": dg.Field(str, default_value="INFO", is_required=False)})
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """Prints messages of `log_level` and above on standard error."""
    logger = logging.Logger("symtune", level=context.logger_config["log_level"])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format())
    logger.addHandler(handler)
    return logger


def end_in_one_sentence() -> None:
    """Let Dagster's commands end with a sentence, and no traceback, where a user's mistake ends them.

    The mistakes are an experiment that cannot be read, a selection or partition that there is not, and
    what a step's user error says. A server passes on such an error itself, and does not end.
    """
    before = sys.excepthook
    whole = SerializableErrorInfo.from_traceback
    SerializableErrorInfo.from_traceback = _without_stack(whole)  # type: ignore[method-assign]

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = _sentence(error)
        if sentence:
            print(f"error: {sentence}", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook


def _without_stack(whole: Callable[[TracebackException], SerializableErrorInfo]) -> Any:
    """Errors as Dagster keeps, logs and shows them: a user error is its sentence, a bug has its stack."""

    def brief(error: TracebackException) -> SerializableErrorInfo:
        info = whole(error)
        if not (error.exc_type and issubclass(error.exc_type, UserError | dg.Failure)):
            return info
        sentence = info.message.partition(": ")[2] or info.message
        return SerializableErrorInfo(message=sentence, stack=[], cls_name=info.cls_name)

    return staticmethod(brief)


def _sentence(error: BaseException | None) -> str | None:
    """What a user is to read of an error or of what has caused it; None for a bug."""
    while error is not None:
        if isinstance(error, UserError):
            return str(error).splitlines()[0]
        if isinstance(error, DagsterInvalidSubsetError | dg.DagsterUnknownPartitionError):
            fault = str(error).splitlines()[0].partition(". ")[0].removesuffix(".")
            return f"{fault}; {LISTED}."
        if isinstance(error, CheckError) and "no '--partition' option" in str(error):
            return UNNAMED
        error = error.__cause__
    return None


def keep_showing(instance: dg.DagsterInstance) -> None:
    """Keep a terminal's Ctrl-C from Dagster's programs that show what a run prints.

    They would end before the run has, one of them with a traceback. Dagster itself ends them by SIGTERM.
    """
    manager = instance.compute_log_manager
    capture = manager.capture_logs

    @contextmanager
    def shown(log_key: Any) -> Iterator[Any]:
        with ExitStack() as stack:
            # Programs inherit what is blocked when they start.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                captured = stack.enter_context(capture(log_key))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            yield captured

    manager.capture_logs = shown  # type: ignore[method-assign]
