"""Answers held against the OpenAPI document: a status or a field that it lacks fails the test."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import msgspec

from orca_master.errors import MethodNotAllowed, NotFound
from orca_master.http.matching import RouteTable
from orca_master.http.openapi import document
from orca_master.http.route import Open, Route

JSON = "application/json"


class Told:
    """What the document says of these routes. Objects may have the fields that it names and no others."""

    def __init__(self, routes: Sequence[Route]) -> None:
        public = [route for route in routes if route.permission is not Open.MASTERS]
        self._routes = RouteTable(public)
        self._document = msgspec.to_builtins(document(public, version="test"))
        self._components = closed(self._document["components"])
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}

    def check(self, method: str, url: str, status: int, value: Any) -> None:
        """Of a path that is no route nothing is told. Raises AssertionError, ValidationError."""
        try:
            route, _ = self._routes.find(method, urlsplit(url).path)
        except (NotFound, MethodNotAllowed):
            return
        responses = self._document["paths"][route.path][method.lower()]["responses"]
        assert str(status) in responses, f"{route.line}: {status} stands in no document"
        content = responses[str(status)].get("content", {})
        if value is None:
            return
        assert JSON in content, f"{route.line}: {status} is not told to be JSON"
        self._validator(f"{route.line} {status}", content[JSON]["schema"]).validate(value)

    def _validator(self, key: str, schema: Any) -> jsonschema.Draft202012Validator:
        if key not in self._validators:
            whole = {**closed(schema), "components": self._components}
            self._validators[key] = jsonschema.Draft202012Validator(whole)
        return self._validators[key]


def closed(schema: Any) -> Any:
    """The schema with no room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made["additionalProperties"] = False
    return made
