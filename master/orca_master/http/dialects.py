"""Dialects: how a family of routes spells success and errors.

Five API documents, four dialects (000 and 001 share one). Each route has one, and a path that no
route matches gets that of its prefix, so that an error always has the form its readers expect.

    cluster   002   bare JSON                          {"error": "sentence", …}
    control   001   {"success", "data", "meta"}        {"success", "error": {"code", …}, "meta"}
    dag       003   bare JSON, lists as {"items"}      {"error": {"code", "message", "trace_id"}}
    ops       004   {"success", "data"}                {"success", "error": "sentence"}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from orca_common.times import rfc3339
from orca_master.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KeyReused,
    Malformed,
    NotAcceptable,
    NotFound,
    OrcaError,
    Refusal,
    Trouble,
    Unauthenticated,
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What an answer may say of the request. `at`: seconds since the epoch; the query is encoded."""

    request_id: str
    trace_id: str
    at: float
    path: str
    query: str = ""


@dataclass(frozen=True, slots=True)
class Numbered:
    page: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        return -(-self.total // self.size)


@dataclass(frozen=True, slots=True)
class Window:
    limit: int
    offset: int
    total: int


@dataclass(frozen=True, slots=True)
class Continued:
    next_token: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """What a handler returns instead of a whole list. The dialect says where the counts go."""

    items: Sequence[object]
    place: Numbered | Window | Continued


class Dialect(Protocol):
    """One object per family. `is_bare`: a result is sent as it is."""

    name: str
    is_bare: bool

    def success(self, value: object, exchange: Exchange) -> object:
        """The JSON value to send for a handler's result."""
        ...

    def headers(self, value: object, exchange: Exchange) -> dict[str, str]:
        """Headers that a result has besides."""
        ...

    def status(self, kind: type[OrcaError]) -> int:
        """What errors of this kind are answered with."""
        ...

    def error(self, error: OrcaError, exchange: Exchange) -> object:
        """The JSON value to send for an error."""
        ...

    def check_accept(self, accept: str) -> None:
        """Raises NotAcceptable for a version that nobody speaks here."""
        ...


class _Plain:
    """What most dialects do: nothing."""

    is_bare = False

    def headers(self, value: object, exchange: Exchange) -> dict[str, str]:
        return {}

    def status(self, kind: type[OrcaError]) -> int:
        return kind.status

    def check_accept(self, accept: str) -> None:
        return


class ClusterDialect(_Plain):
    """API document 002: bare JSON; errors are `{"error": "sentence"}`, plus what helps a program."""

    name = "cluster"
    is_bare = True

    def success(self, value: object, exchange: Exchange) -> object:
        return value

    def error(self, error: OrcaError, exchange: Exchange) -> object:
        body: dict[str, object] = {
            "error": error.message,
            "code": error.code,
            "request_id": exchange.request_id,
        }
        if isinstance(error, Invalid):
            body["problems"] = [{"field": p.field, "message": p.message} for p in error.problems]
        return body


class ControlDialect(_Plain):
    """API documents 000 and 001: an envelope, error codes by family, pages by number."""

    name = "control"

    def success(self, value: object, exchange: Exchange) -> object:
        meta = _meta(exchange)
        if isinstance(value, Page):
            place = value.place
            assert isinstance(place, Numbered), "this family's pages have numbers"
            meta["pagination"] = {
                "page": place.page,
                "pageSize": place.size,
                "totalItems": place.total,
                "totalPages": place.pages,
                "hasNext": place.page < place.pages,
                "hasPrevious": place.page > 1,
            }
            value = value.items
        return {"success": True, "data": value, "meta": meta}

    def error(self, error: OrcaError, exchange: Exchange) -> object:
        told: dict[str, object] = {"code": control_code(error), "message": error.message}
        if isinstance(error, Invalid):
            told["validationErrors"] = [
                {"field": p.field, "message": p.message, "code": p.code} for p in error.problems
            ]
        return {"success": False, "error": told, "meta": _meta(exchange)}


class DagDialect(_Plain):
    """API document 003: bare JSON, lists with the token of the next page, errors with a trace id."""

    name = "dag"

    def success(self, value: object, exchange: Exchange) -> object:
        if isinstance(value, Page):
            assert isinstance(value.place, Continued), "this family's pages have tokens"
            return {"items": value.items, "next_page_token": value.place.next_token}
        return value

    def error(self, error: OrcaError, exchange: Exchange) -> object:
        told: dict[str, object] = {
            "code": error.code,
            "message": error.message,
            "trace_id": exchange.trace_id,
        }
        if isinstance(error, Invalid):
            told["details"] = [{"field": p.field, "message": p.message} for p in error.problems]
        return {"error": told}


class OpsDialect(_Plain):
    """API document 004: a small envelope, counts in headers, 422 for what is well-formed but wrong."""

    name = "ops"
    media_type = "application/vnd.provisioning.v1+json"

    def success(self, value: object, exchange: Exchange) -> object:
        return {"success": True, "data": value.items if isinstance(value, Page) else value}

    def headers(self, value: object, exchange: Exchange) -> dict[str, str]:
        if not isinstance(value, Page):
            return {}
        place = value.place
        assert isinstance(place, Window), "this family's pages have offsets"
        headers = {
            "X-Total-Count": str(place.total),
            "X-Limit": str(place.limit),
            "X-Offset": str(place.offset),
        }
        links = []
        if place.offset + place.limit < place.total:
            links.append(_link(exchange, place, place.offset + place.limit, "next"))
        if place.offset > 0:
            links.append(_link(exchange, place, max(0, place.offset - place.limit), "prev"))
        if links:
            headers["Link"] = ", ".join(links)
        return headers

    def status(self, kind: type[OrcaError]) -> int:
        is_shape = issubclass(kind, Invalid) and not issubclass(kind, Malformed)
        return 422 if is_shape or kind is Conflict else kind.status

    def error(self, error: OrcaError, exchange: Exchange) -> object:
        return {"success": False, "error": error.message}

    def check_accept(self, accept: str) -> None:
        kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
        vendors = [kind for kind in kinds if kind.startswith("application/vnd.provisioning.")]
        others = [kind for kind in kinds if kind not in vendors]
        if vendors and self.media_type not in vendors and not others:
            raise NotAcceptable(f"only version 1 is spoken here: Accept: {self.media_type}")


CLUSTER = ClusterDialect()
CONTROL = ControlDialect()
DAG = DagDialect()
OPS = OpsDialect()

_CLUSTER_PATHS = (
    "health",
    "deploy",
    "status",
    "stop",
    "services",
    "cluster",
    "projects",
    "webhooks",
    "tokens",
    "audit",
    "openapi.json",
    "reference",
)


def for_path(path: str) -> Dialect:
    """The dialect of a path that no route matches."""
    if path.startswith("/internal/"):
        return CLUSTER
    if not path.startswith("/api/v1/"):
        return OPS
    first = path.removeprefix("/api/v1/").partition("/")[0]
    if first == "orchestrator":
        return DAG
    return CLUSTER if first in _CLUSTER_PATHS else CONTROL


def control_code(error: OrcaError) -> str:
    """The code of API document 001, by families: `AUTH_`, `PERM_`, `VAL_`, `RES_`, `SYS_`.

    What is raised with a code of its own (`PROMOTION_BLOCKED`) keeps it.
    """
    if type(error).code in _OWN_CODES:
        return error.code
    for kind, family in _FAMILIES:
        if isinstance(error, kind):
            return f"{family}_{error.code}"
    return f"SYS_{error.code}"


_OWN_CODES = frozenset({"RATE_LIMITED"})
_FAMILIES: tuple[tuple[type[OrcaError], str], ...] = (
    (Unauthenticated, "AUTH"),
    (Forbidden, "PERM"),
    (NotFound, "RES"),
    (Conflict, "RES"),
    (KeyReused, "VAL"),
    (Trouble, "SYS"),
    (Refusal, "VAL"),
)


def _meta(exchange: Exchange) -> dict[str, Any]:
    return {"requestId": exchange.request_id, "timestamp": rfc3339(exchange.at)}


def _link(exchange: Exchange, place: Window, offset: int, relation: str) -> str:
    asked = parse_qsl(exchange.query, keep_blank_values=True)
    others = [(name, value) for name, value in asked if name not in ("limit", "offset")]
    query = urlencode([*others, ("offset", offset), ("limit", place.limit)])
    return f'<{exchange.path}?{query}>; rel="{relation}"'
