"""The OpenAPI 3.1 document, made from the route table: what is not a route is not in it, and vice versa."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orca_master.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KeyReused,
    NotFound,
    NotReady,
    OrcaError,
    OutcomeUnknown,
    StorageFull,
    TooLarge,
    TooSlow,
    Unauthenticated,
    UnsupportedMediaType,
)
from orca_master.http.dialects import Dialect
from orca_master.http.forward import SAFE_METHODS
from orca_master.http.once import MAX_KEY_CHARACTERS
from orca_master.http.route import Call, Open, Route, Served

PATH = "/api/v1/openapi.json"
_PARTS = re.compile(r"\{(\w+)\}")
_REFS = "#/components/schemas/{model}"

_ERROR = {
    "type": "object",
    "required": ["error", "code", "request_id"],
    "properties": {
        "error": {"type": "string", "description": "One sentence, for people."},
        "code": {"type": "string", "description": "One word, for programs."},
        "request_id": {"type": "string"},
        "problems": {
            "type": "array",
            "description": "Each mistake of an invalid request.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def document(routes: Iterable[Route], *, version: str) -> dict[str, Any]:
    """Of every route that is not between masters only."""
    shown = [route for route in routes if route.permission is not Open.MASTERS]
    bodies = sorted({r.body for r in shown if r.body is not None}, key=lambda body: body.__name__)
    _, schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=_REFS)
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Orca",
            "version": version,
            "description": "The HTTP API of an Orca master; any master of a cluster may be asked.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def described_by(routes: Sequence[Route], *, dialect: Dialect, version: str) -> Route:
    """The route that shows the document of all of them, and of itself."""
    made: dict[str, Any] = {}

    async def show(call: Call[Any, Any]) -> object:
        if not made:
            made.update(document([*routes, route], version=version))
        return made

    route = Route(
        f"GET {PATH}",
        Open.PUBLIC,
        show,
        "This document",
        dialect=dialect,
        served=Served.HERE,
    )
    return route


def statuses(route: Route) -> set[int]:
    """Every status that the route may answer with."""
    return set(route.statuses) | {error.status for error in _errors(route)} | {500}


def _errors(route: Route) -> list[type[OrcaError]]:
    errors: list[type[OrcaError]] = [Invalid, NotReady, TooLarge, TooSlow]
    if not isinstance(route.permission, Open):
        errors += [Unauthenticated, Forbidden]
    if route.permission is Open.SIGNED:
        errors += [Forbidden]
    if "{" in route.path:
        errors += [NotFound]
    if route.body is not None:
        errors += [UnsupportedMediaType]
    if route.method not in SAFE_METHODS:
        errors += [Conflict, OutcomeUnknown, StorageFull]
    elif "{" in route.path:
        errors += [Conflict]  # an ambiguous name
    if route.takes_key:
        errors += [KeyReused]
    return errors


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _id(route),
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if not isinstance(route.permission, Open):
        operation["security"] = [{"token": []}]
        operation["description"] = f"Needs the permission `{route.permission}`."
    if route.body is not None:
        operation["requestBody"] = {
            "required": _needs_something(route.body),
            "content": {
                "application/json": {"schema": {"$ref": _REFS.format(model=route.body.__name__)}}
            },
        }
    return operation


def _id(route: Route) -> str:
    words = re.findall(r"[a-z0-9]+", route.path.removeprefix("/api/v1"))
    return "_".join([route.method.lower(), *words])


def _needs_something(body: type[BaseModel]) -> bool:
    return any(field.is_required() for field in body.model_fields.values())


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARTS.findall(route.path)
    ]
    schema = route.query.model_json_schema()
    for name, about in schema.get("properties", {}).items():
        required = name in schema.get("required", [])
        found.append({"name": name, "in": "query", "required": required, "schema": about})
    if route.served is Served.HERE_OR_LEADER:
        about = {"type": "string", "enum": ["linearizable", "stale"], "default": "linearizable"}
        found.append({"name": "consistency", "in": "query", "required": False, "schema": about})
    if route.takes_key:
        about = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS}
        found.append(
            {"name": "Idempotency-Key", "in": "header", "required": False, "schema": about}
        )
    return found


def _responses(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {route.media_type: {"schema": {}}}
    responses: dict[str, Any] = {
        str(status): {"description": "Done." if status < 400 else "Not done.", "content": content}
        for status in route.statuses
    }
    error = {"application/json": {"schema": {"$ref": _REFS.format(model="Error")}}}
    for status in sorted(statuses(route) - set(route.statuses)):
        responses[str(status)] = {"description": _MEANINGS[status], "content": error}
    return responses


_MEANINGS = {
    400: "The request is wrong; every mistake is named.",
    401: "No token, or a wrong one.",
    403: "The token may not do this.",
    404: "There is no such thing.",
    408: "The request did not come in time.",
    409: "Not in the present state of things.",
    413: "Too large, or too much work for one change.",
    415: "The body is not JSON in UTF-8.",
    422: "The Idempotency-Key was used for another request.",
    500: "A fault of the server; its log has the request id.",
    503: "Not possible at the moment; nothing was changed.",
    504: "It is not known whether it was done.",
    507: "The master's disk is full; nothing was changed.",
}
