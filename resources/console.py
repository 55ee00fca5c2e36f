"""A console log for people: the time and what is said, a line each."""

from __future__ import annotations

import logging
import sys

import dagster as dg


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
