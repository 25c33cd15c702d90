"""Durations, sizes, numbers and lists as compose files write them. Pure; they raise ValueError."""

import math
import re
import shlex
from typing import Any

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|µs|ms|ns|s|m|h|d)", re.ASCII)
_SECONDS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0
}  # fmt: skip
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)i?b?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def seconds(value: Any) -> float:
    """`1m30s` → 90.0"""
    text = str(value).strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text[:40]!r} is no duration such as 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def memory(value: Any) -> str:
    """`512m` → `512Mi`"""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{str(value)[:40]!r} is no size such as 512m")
    size = math.floor(float(match[1]) * (1 << _POWERS[match[2].lower()]))
    if size < 6 << 20:
        raise ValueError(f"{str(value)[:40]} is less than 6 MiB, which container engines refuse")
    return f"{size >> 20}Mi" if size % (1 << 20) == 0 else str(size)


def number(value: Any) -> int:
    """Also of a text: a variable may have stood there."""
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", str(value).strip(), re.ASCII):
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return int(str(value))


def processors(value: Any) -> float:
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if not 0.001 <= found <= 1024:
        raise ValueError(f"{str(value)[:40]!r} is no number of processors from 0.001 to 1024")
    return found


def truth(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "yes", "on", "1")


def text(value: Any) -> str:
    """As compose writes a scalar into an environment."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def words(value: Any) -> list[str]:
    """A command as a list, or as a line that is split as a shell does."""
    if isinstance(value, str):
        return shlex.split(value)
    if not isinstance(value, list):
        raise ValueError("must be a text or a list")
    return [text(each) for each in value]


def mapping(value: Any) -> dict[str, Any]:
    """An object, or a list of `KEY=VALUE` and of `KEY` (None)."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        raise ValueError("must be an object or a list")
    parts = [str(each).partition("=") for each in value]
    return {key: rest if separator else None for key, separator, rest in parts}


def sequence(value: Any) -> list[Any]:
    """One thing alone is a list of it."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
