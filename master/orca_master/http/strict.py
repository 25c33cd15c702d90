"""JSON as RFC 8259 wants it and nothing else: what other readers read differently is refused.

Refused: bytes that are not UTF-8, keys that come twice, numbers that are none or too large, half
surrogates, nesting without end. Each of these is read in two ways by two programs, or crashes one.
"""

import json
import re
from typing import Any, NoReturn

from orca_master.errors import Invalid, Problem, UnsupportedMediaType

_MEDIA_TYPE = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json", re.ASCII)


def check_media_type(content_type: str, charset: str | None) -> None:
    """Raises UnsupportedMediaType for what does not say that it is JSON in UTF-8."""
    if not _MEDIA_TYPE.fullmatch(content_type) or (charset or "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType(
            "the body must be JSON in UTF-8: send the header Content-Type: application/json"
        )


def check_json(raw: bytes) -> None:
    """Raises Invalid with every kind of mistake that makes these bytes no strict JSON."""
    problems: list[str] = []
    try:
        text = raw.decode("utf-8")
        json.loads(
            text,
            object_pairs_hook=lambda pairs: _check_pairs(pairs, problems),
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        problems.append(f"the body is not UTF-8 (byte {error.start})")
    except RecursionError:
        problems.append("the body is nested too deeply")
    except json.JSONDecodeError as error:
        problems.append(
            f"the body is not JSON: {error.msg}, line {error.lineno} column {error.colno}"
        )
    except ValueError as error:
        problems.append(f"the body is not JSON: {error}")
    else:
        if "\\u" in text and _has_half_surrogates(text):
            problems.append("the body holds half a surrogate pair, which is no character")
    if problems:
        raise Invalid([Problem("", problem) for problem in dict.fromkeys(problems)])


def _check_pairs(pairs: list[tuple[str, Any]], problems: list[str]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            problems.append(f"the key {key[:80]!a} comes twice in one object")
        seen.add(key)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _has_half_surrogates(text: str) -> bool:
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
