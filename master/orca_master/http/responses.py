"""What a route may answer: its statuses, and for each the media types, schemas and headers."""

from typing import Any

from orca_master.errors import (
    Conflict,
    ExpectationFailed,
    Forbidden,
    Invalid,
    KeyReused,
    Malformed,
    NotAcceptable,
    NotFound,
    NotReady,
    OrcaError,
    OutcomeUnknown,
    RateLimited,
    StorageFull,
    TooLarge,
    TooSlow,
    Unauthenticated,
    UnsupportedMediaType,
)
from orca_master.http import forms
from orca_master.http.dialects import OPS
from orca_master.http.forward import SAFE_METHODS
from orca_master.http.pages import ContinuedQuery, NumberedQuery, WindowQuery
from orca_master.http.route import Open, Route, Served
from orca_master.http.streams import Form

JSON = "application/json"
REFS = "#/components/schemas/{model}"
_PAGES = (NumberedQuery, WindowQuery, ContinuedQuery)


def statuses(route: Route) -> set[int]:
    """Every status that the route may answer with."""
    errors = {route.dialect.status(kind) for kind in _errors(route)}
    return set(_successes(route)) | errors | {500}


def _successes(route: Route) -> list[int]:
    return [*([101] if route.is_stream else []), *route.statuses]


def _errors(route: Route) -> list[type[OrcaError]]:
    errors: list[type[OrcaError]] = [Invalid, NotReady, TooLarge, TooSlow, ExpectationFailed]
    errors += route.refusals
    if route.takes_raw:
        errors += [Unauthenticated, RateLimited, UnsupportedMediaType, Malformed]
    if not isinstance(route.permission, Open):
        errors += [Unauthenticated, Forbidden]
    if route.permission is Open.SIGNED:
        errors += [Forbidden]
    if "{" in route.path:
        errors += [NotFound]
    if route.body is not None:
        errors += [UnsupportedMediaType, Malformed]
    if route.method not in SAFE_METHODS:
        errors += [Conflict, OutcomeUnknown, StorageFull]
    elif "{" in route.path:
        errors += [Conflict]  # an ambiguous name
    if route.takes_key:
        errors += [KeyReused]
    if route.rate is not None:
        errors += [RateLimited]
    if route.dialect is OPS:
        errors += [NotAcceptable]
    return errors


def responses(route: Route) -> dict[str, Any]:
    """The `responses` of its operation."""
    error = {"$ref": REFS.format(model=forms.error_name(route.dialect.name))}
    of_errors = {route.dialect.status(kind) for kind in _errors(route)} | {500}
    found: dict[str, Any] = {}
    for status in sorted(statuses(route)):
        response: dict[str, Any] = {"description": _MEANINGS[status]}
        if status == 101:
            found["101"] = response
            continue
        response["headers"] = _headers(route, status)
        if status not in route.statuses:
            response["content"] = {JSON: {"schema": error}}
        else:
            response["content"] = _content(route)
            if status in of_errors and JSON in response["content"]:
                whole = response["content"][JSON]
                whole["schema"] = {"anyOf": [whole["schema"], error]}
        found[str(status)] = response
    return found


def _content(route: Route) -> dict[str, Any]:
    if route.answer is None:
        return {route.media_type: {"schema": {"type": "string"}}}
    schema = {"$ref": REFS.format(model=route.answer.__name__)}
    if route.is_stream:  # each line, or each event's data, is one of these
        told = {"type": "string", "contentMediaType": JSON, "contentSchema": schema}
        return {form.value: {"schema": told} for form in (Form.NDJSON, Form.SSE)}
    is_page = issubclass(route.query, _PAGES)
    return {
        route.media_type: {"schema": forms.success(route.dialect.name, schema, is_page=is_page)}
    }


def _headers(route: Route, status: int) -> dict[str, Any]:
    names = ["X-Request-Id"]
    if status in (429, 503):
        names.append("Retry-After")
    if status == 401:
        names.append("WWW-Authenticate")
    is_done = status in route.statuses
    if route.rate is not None and (is_done or status == 429):
        names += ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
    if route.served is Served.HERE_OR_LEADER and is_done:
        names.append("X-Orca-Age-Seconds")
    if issubclass(route.query, WindowQuery) and is_done:
        names += ["X-Total-Count", "X-Limit", "X-Offset", "Link"]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(description: str, kind: str = "integer") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


HEADERS = {
    "X-Request-Id": _header("What the master's log calls this request.", "string"),
    "Retry-After": _header("Seconds to wait before asking again."),
    "WWW-Authenticate": _header("`Bearer`.", "string"),
    "X-RateLimit-Limit": _header("Requests in a minute."),
    "X-RateLimit-Remaining": _header("How many of them are left."),
    "X-RateLimit-Reset": _header("When the minute ends, in Unix seconds."),
    "X-Orca-Age-Seconds": _header(
        "Only with `consistency=stale`: how long ago this was certainly the latest.", "number"
    ),
    "X-Total-Count": _header("How many there are in all."),
    "X-Limit": _header("How many this page has at most."),
    "X-Offset": _header("How many come before this page."),
    "Link": _header("The next page and the one before (RFC 8288).", "string"),
}

_MEANINGS = {
    101: "The WebSocket is open: a JSON object in each message.",
    200: "Done.",
    201: "Made.",
    202: "Accepted; the work goes on.",
    206: "Some of it is done; the rest failed, and the answer says why.",
    400: "The request is wrong; every mistake is named.",
    401: "No token, or a wrong one.",
    403: "The token may not do this.",
    404: "There is no such thing.",
    406: "Another version is spoken here.",
    408: "The request did not come in time.",
    409: "Not in the present state of things.",
    413: "Too large, or too much work for one change.",
    415: "The body is not JSON in UTF-8.",
    417: "The header Expect may be 100-continue, or left out.",
    422: "Well-formed, but not to be done: an Idempotency-Key of another request, or a wrong value.",
    429: "Too many requests in this minute.",
    500: "A fault of the server, whose log has the request id; or none of what was asked succeeded.",
    503: "Not possible at the moment; nothing was changed.",
    504: "It is not known whether it was done.",
    507: "The master's disk is full; nothing was changed.",
}
