"""Trace ids: which requests belong together, across programs (W3C Trace Context, level 1)."""

import re

from orca_common.env import Env

HEADER = "traceparent"
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def trace_id(traceparent: str | None, request_id: str) -> str:
    """32 hex digits: the caller's if its header is valid, else made of the request's own id."""
    found = _TRACEPARENT.fullmatch(traceparent[:512]) if traceparent is not None else None
    if found is None:
        return request_id.rjust(32, "0")
    version, trace, parent, more = found.groups()
    is_valid = int(trace, 16) and int(parent, 16) and not (version == "00" and more)
    return str(trace) if is_valid else request_id.rjust(32, "0")


def traceparent(env: Env, trace: str) -> str:
    """The header for a request that we make on behalf of this trace."""
    return f"00-{trace}-{env.new_id()}-01"
