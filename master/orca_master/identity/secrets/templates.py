"""Texts with `${secrets.KEY}` in them: which keys they name, and what becomes of them. Pure.

Of the dollars before `{secrets.` each pair is one literal dollar, and one that is left over begins a
reference: `$${secrets.KEY}` is the text `${secrets.KEY}`. Nothing else is changed, and what a value holds is
never looked at again.
"""

import re
from collections.abc import Callable, Iterable, Iterator

MOST_KEY_CHARACTERS = 128
KEY_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]{0,127}$"

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}", re.ASCII)
_OPENING = "{secrets."
_SHOWN_CHARACTERS = 80


class BadReference(ValueError):
    """What stands after `${secrets.` names no secret."""


def is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def check_key(text: str) -> str:
    """Raises ValueError."""
    if not is_key(text):
        raise ValueError(
            "must be 1 to 128 of A-Z, a-z, 0-9, _ and -, not beginning with a digit or -"
        )
    return text


def has_any(text: str) -> bool:
    """Whether it says anything of secrets, literally or not."""
    return _OPENING in text


def parts(text: str) -> Iterator[tuple[str, str | None]]:
    """(literal text, the key whose value follows, or None at the end). Raises BadReference."""
    at, before = 0, ""
    while (opening := text.find(_OPENING, at)) >= 0:
        literal = text[at:opening].rstrip("$")
        dollars = opening - at - len(literal)
        before += literal + "$" * (dollars // 2)
        at = opening + len(_OPENING)
        if dollars % 2 == 0:
            before += _OPENING
            continue
        end = text.find("}", at)
        key = text[at:] if end < 0 else text[at:end]
        if end < 0 or not is_key(key):
            raise BadReference(_explained(key, is_closed=end >= 0))
        yield before, key
        at, before = end + 1, ""
    yield before + text[at:], None


def references(text: str) -> int:
    """About how many, in no time: an upper bound."""
    return text.count(_OPENING)


def keys(texts: Iterable[str]) -> set[str]:
    """Every key that is named. Raises BadReference."""
    return {key for text in texts if has_any(text) for _, key in parts(text) if key is not None}


def expanded(text: str, value: Callable[[str], str]) -> str:
    """The text with the values in their places. Raises BadReference, and what `value` raises."""
    if not has_any(text):
        return text
    return "".join(
        literal + (value(key) if key is not None else "") for literal, key in parts(text)
    )


def escaped(text: str) -> str:
    """A text that `expanded` makes this one of."""
    *pieces, last = text.split(_OPENING)
    doubled = [each + "$" * (len(each) - len(each.rstrip("$"))) + _OPENING for each in pieces]
    return "".join(doubled) + last


def _explained(key: str, *, is_closed: bool) -> str:
    told = "${secrets." + key[:_SHOWN_CHARACTERS] + ("}" if is_closed else "")
    if not is_closed:
        why = "is not closed"
    elif "{" in key:
        why = "names no key: a secret's name cannot come from another secret"
    elif "." in key or "/" in key:
        why = "names a key of another project: only the service's own and the cluster's can be used"
    else:
        why = "names no key: a key is 1 to 128 of A-Z, a-z, 0-9, _ and -"
    return f"{told} {why}; write $${{secrets. for these very characters"
