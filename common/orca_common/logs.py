"""Structured logs: an event sentence plus fields, one line each, JSON or for people."""

import logging
import sys
from typing import Any, TextIO, cast

import structlog

_level = logging.INFO


class Logger(structlog.BoundLoggerBase):
    """Says things to operators, from the level that was set last. Never put secrets in fields."""

    def debug(self, event: str, *args: object, **fields: object) -> None:
        self._say(logging.DEBUG, "debug", event, args, fields)

    def info(self, event: str, *args: object, **fields: object) -> None:
        self._say(logging.INFO, "info", event, args, fields)

    def warning(self, event: str, *args: object, **fields: object) -> None:
        self._say(logging.WARNING, "warning", event, args, fields)

    def error(self, event: str, *args: object, **fields: object) -> None:
        self._say(logging.ERROR, "error", event, args, fields)

    def critical(self, event: str, *args: object, **fields: object) -> None:
        self._say(logging.CRITICAL, "critical", event, args, fields)

    def is_enabled_for(self, level: int) -> bool:
        return level >= _level

    def _say(
        self, level: int, name: str, event: str, args: tuple[object, ...], fields: dict[str, Any]
    ) -> None:
        if level >= _level:
            self._proxy_to_logger(name, event % args if args else event, **fields)


class _StandardError:
    """Where lines go. One that nobody reads any more never stops the daemon."""

    def write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
        except (OSError, ValueError):
            return

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            return


def get_logger(name: str) -> Logger:
    """A logger whose lines carry `component=name`."""
    return cast("Logger", structlog.get_logger(component=name))


def set_level(level: str) -> None:
    """From now on, in the whole process: debug, info, warning, error or critical. Raises ValueError."""
    global _level
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log_level: {level!r} is none of debug, info, warning, error, critical")
    _level = number


def configure_logs(*, level: str = "info", as_json: bool = True) -> None:
    """Once per process. Raises ValueError for a level that is none."""
    set_level(level)
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
        wrapper_class=Logger,
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _StandardError())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.raiseExceptions = False
