"""`WWW-Authenticate`: how a server wants to be told who asks (RFC 9110, section 11). Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|$)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")
_BETWEEN = re.compile(r"[ \t,]*")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to be let in. `scheme` and names of parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """Of all the headers, in their order. What cannot be read ends its header."""
    return [challenge for header in headers for challenge in _read(header)]


def _read(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    at = _skip(header, 0)
    while at < len(header):
        if found and (parameter := _PARAMETER.match(header, at)):
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            parameters.setdefault(name.lower(), value)
            at = parameter.end()
        elif scheme := _SCHEME.match(header, at):
            parameters = {}
            found.append(Challenge(scheme[1].lower(), parameters))
            at = _after_token68(header, scheme.end())
        else:
            break
        at = _skip(header, at)
    return found


def _skip(header: str, at: int) -> int:
    between = _BETWEEN.match(header, at)
    return at if between is None else between.end()


def _after_token68(header: str, at: int) -> int:
    """Some schemes have one blob instead of parameters, after spaces and no comma."""
    after = at
    while after < len(header) and header[after] in " \t":
        after += 1
    if after == at or _PARAMETER.match(header, after):
        return at
    blob = _TOKEN68.match(header, after)
    return at if blob is None else blob.end()
