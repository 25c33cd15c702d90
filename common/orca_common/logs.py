"""Structured logs: an event sentence plus fields, one line each, JSON or for people."""

import logging
import sys
from typing import cast

import structlog


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry `component=name`. Never put secrets in fields."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(component=name))


def configure_logs(*, level: str = "info", as_json: bool = True) -> None:
    """Once per process. Lines go to standard error; a closed one never stops the daemon."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.raiseExceptions = False
