"""The routes that show the API itself: as an OpenAPI document, and as a page for people."""

from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import Any

from orca_master.http.dialects import Dialect
from orca_master.http.openapi import Document, document
from orca_master.http.reference import page
from orca_master.http.route import Call, Open, Route, Served, Text

PATH = "/api/v1/openapi.json"
PAGE_PATH = "/api/v1/reference"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


def documentation(routes: Sequence[Route], *, dialect: Dialect, version: str) -> list[Route]:
    """The routes for the documentation of all these, and of themselves.

    Made when it is first asked for: a start need not wait for it.
    """

    @cache
    def made() -> Document:
        return document([*routes, *own], version=version)

    @cache
    def drawn() -> bytes:
        return page(made()).encode()

    async def show(call: Call[Any, Any]) -> Document:
        return made()

    async def read(call: Call[Any, Any]) -> Text:
        async def whole() -> AsyncIterator[bytes]:
            yield drawn()

        return Text(whole(), "text/html; charset=utf-8", PAGE_HEADERS)

    own = [
        Route(
            f"GET {PATH}",
            Open.PUBLIC,
            show,
            "This API as an OpenAPI document",
            dialect=dialect,
            served=Served.HERE,
            answer=Document,
            tag="operation",
        ),
        Route(
            f"GET {PAGE_PATH}",
            Open.PUBLIC,
            read,
            "This API as a page to read, which needs nothing from elsewhere",
            dialect=dialect,
            served=Served.HERE,
            media_type="text/html",
            tag="operation",
        ),
    ]
    return own
