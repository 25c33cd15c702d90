"""The OpenAPI 3.1 document, made from the route table: what is not a route is not in it, and vice versa.

Schemas of what comes in are pydantic's, as it is pydantic that checks it; those of answers are
msgspec's, as it is msgspec that writes them: a handler returns the very type that is described.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orca_master.http import forms
from orca_master.http.asked import NAMES
from orca_master.http.names import PART_SCHEMA as NAME
from orca_master.http.once import MAX_KEY_CHARACTERS
from orca_master.http.responses import HEADERS, JSON, REFS, responses
from orca_master.http.route import Open, Route, Served

ANY = {"type": "string"}
_PARTS = re.compile(r"\{(\w+)\}")


class Document(msgspec.Struct, frozen=True):
    """An OpenAPI document; its form is the OpenAPI Specification's."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]


def document(routes: Iterable[Route], *, version: str) -> Document:
    """Of every route that is not between masters only. Raises ValueError for two schemas of one name."""
    shown = [route for route in routes if route.permission is not Open.MASTERS]
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return Document(
        openapi="3.1.0",
        info={
            "title": "Orca",
            "version": version,
            "description": "The HTTP API of an Orca master; any master of a cluster may be asked.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        paths=paths,
        components={
            "schemas": _schemas(shown),
            "headers": HEADERS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    )


def _schemas(routes: Sequence[Route]) -> dict[str, Any]:
    bodies = sorted({r.body for r in routes if r.body is not None}, key=lambda body: body.__name__)
    _, made = models_json_schema([(body, "validation") for body in bodies], ref_template=REFS)
    incoming = made.get("$defs", {})
    answers = sorted({r.answer for r in routes if r.answer is not None}, key=lambda a: a.__name__)
    _, outgoing = msgspec.json.schema_components(answers, ref_template=REFS.format(model="{name}"))
    errors = {
        forms.error_name(name): forms.ERRORS[name]
        for name in sorted({route.dialect.name for route in routes})
    }
    twice = (incoming.keys() & outgoing.keys()) | ({*incoming, *outgoing} & errors.keys())
    if twice:
        raise ValueError(f"two schemas are called {', '.join(sorted(twice))}: rename one")
    return {**incoming, **outgoing, **errors}


def _operation(route: Route) -> dict[str, Any]:
    is_open = isinstance(route.permission, Open)
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _id(route),
        "tags": [route.tag],
        "security": [] if is_open else [{"token": []}],
        "parameters": _parameters(route),
        "responses": responses(route),
    }
    if route.permission is Open.SIGNED:
        operation["description"] = "Needs no token: a join token signs the request."
    elif not is_open:
        operation["description"] = f"Needs the permission `{route.permission}`."
    if route.body is not None:
        content: dict[str, Any] = {"schema": {"$ref": REFS.format(model=route.body.__name__)}}
        if route.example is not None:
            content["examples"] = {"example": {"value": route.example}}
        operation["requestBody"] = {
            "required": _needs_something(route.body),
            "content": {JSON: content},
        }
    return operation


def _id(route: Route) -> str:
    words = re.findall(r"[a-z0-9]+", route.path.removeprefix("/api/v1"))
    return "_".join([route.method.lower(), *words])


def _needs_something(body: type[BaseModel]) -> bool:
    return any(field.is_required() for field in body.model_fields.values())


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": NAME if name in NAMES else ANY}
        for name in _PARTS.findall(route.path)
    ]
    schema = route.query.model_json_schema()
    for name, about in schema.get("properties", {}).items():
        required = name in schema.get("required", [])
        about = _without_null(about)
        parameter = {"name": name, "in": "query", "required": required, "schema": about}
        if "description" in about:
            parameter["description"] = about["description"]
        found.append(parameter)
    if route.served is Served.HERE_OR_LEADER:
        about = {"type": "string", "enum": ["linearizable", "stale"], "default": "linearizable"}
        found.append(_optional("consistency", "query", about, "`stale`: this master's own state."))
    if route.takes_key:
        about = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS}
        told = "Asked again with the same key, the change is made once."
        found.append(_optional("Idempotency-Key", "header", about, told))
    if route.is_stream:
        told = "The `id` of the last event that was seen, to go on after it."
        found.append(_optional("Last-Event-ID", "header", {"type": "string"}, told))
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or it is not: it is never null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    others = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**others, **kinds[0]}


def _optional(name: str, place: str, schema: dict[str, Any], told: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "schema": schema, "description": told}
