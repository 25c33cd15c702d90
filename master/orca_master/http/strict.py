"""JSON as RFC 8259 wants it and nothing else: what other readers read differently is refused.

Refused: bytes that are not UTF-8, keys that come twice, numbers that are none or too large, half
surrogates, nesting without end. Each of these is read in two ways by two programs, or crashes one.
"""

import json
import re
from email.message import Message
from functools import lru_cache
from typing import Any, NoReturn

from orca_master.errors import Malformed, Problem, UnsupportedMediaType

_MEDIA_TYPE = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json", re.ASCII)


def check_media_type(content_type: str | None) -> None:
    """Raises UnsupportedMediaType for a Content-Type that does not say that it is JSON in UTF-8."""
    if not _is_json(content_type or "application/octet-stream"):
        raise UnsupportedMediaType(
            "the body must be JSON in UTF-8: send the header Content-Type: application/json"
        )


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    message = Message()
    message["Content-Type"] = content_type
    charset = message.get_content_charset("utf-8")
    return charset == "utf-8" and bool(_MEDIA_TYPE.fullmatch(message.get_content_type()))


def check_json(raw: bytes) -> None:
    """Raises Malformed with every kind of mistake that makes these bytes no strict JSON."""
    try:
        text = raw.decode("utf-8")
        _decoder.decode(text)
    except (ValueError, RecursionError):
        raise Malformed([Problem("", problem) for problem in _mistakes(raw)]) from None
    if "\\u" in text and _has_half_surrogates(text):
        raise Malformed(
            [Problem("", "the body holds half a surrogate pair, which is no character")]
        )


def _mistakes(raw: bytes) -> list[str]:
    """What is wrong with bytes that are known to be no strict JSON."""
    twice: dict[str, None] = {}

    def note(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                twice[f"the key {key[:80]!a} comes twice in one object"] = None
            seen.add(key)

    try:
        text = raw.decode("utf-8")
        json.loads(
            text, object_pairs_hook=note, parse_constant=_refuse_constant, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        return [f"the body is not UTF-8 (byte {error.start})"]
    except RecursionError:
        return [*twice, "the body is nested too deeply"]
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        return [*twice, f"the body is not JSON: {error.msg}, {place}"]
    except ValueError as error:
        return [*twice, f"the body is not JSON: {error}"]
    if "\\u" in text and _has_half_surrogates(text):
        return [*twice, "the body holds half a surrogate pair, which is no character"]
    return list(twice)


def _refuse_pairs(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key comes twice")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


_decoder = json.JSONDecoder(
    object_pairs_hook=_refuse_pairs, parse_constant=_refuse_constant, parse_float=_finite
)


def _has_half_surrogates(text: str) -> bool:
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
