"""Pages of a list, in the three ways that the API documents ask for.

    numbered    ?page=2&pageSize=20           API document 001: the counts stand in `meta.pagination`
    window      ?limit=50&offset=100          API document 004: the counts and the next address in headers
    continued   ?page_token=…&page_size=50    API document 003: goes on after the last row that was seen

(`?tail=` and `?limit=` alone, of 002 and 000, are no pages: they cut a list off.) A page by number or
offset moves when rows come and go; one by token does not.
"""

import base64
import binascii
import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import Field

from orca_master.errors import Invalid, Problem
from orca_master.http.dialects import Continued, Numbered, Page, Window
from orca_master.http.route import QueryModel

T = TypeVar("T")
Key = tuple[str | int | float, ...]

LARGEST_OFFSET = 10_000_000


class NumberedQuery(QueryModel):
    """Inherit from it to add filters. `sort`: a field, with `-` before it from high to low."""

    page: Annotated[int, Field(ge=1, le=LARGEST_OFFSET)] = 1
    pageSize: Annotated[int, Field(ge=1, le=100)] = 20
    sort: Annotated[str, Field(max_length=64)] = ""


class WindowQuery(QueryModel):
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    offset: Annotated[int, Field(ge=0, le=LARGEST_OFFSET)] = 0


class ContinuedQuery(QueryModel):
    page_token: Annotated[str, Field(max_length=1024)] = ""
    page_size: Annotated[int, Field(ge=1, le=500)] = 50


def numbered(rows: Sequence[T], query: NumberedQuery, show: Callable[[T], object]) -> Page:
    """The rows of this page; a page past the end is empty. Only these rows are shown."""
    start = (query.page - 1) * query.pageSize
    shown = [show(row) for row in rows[start : start + query.pageSize]]
    return Page(shown, Numbered(query.page, query.pageSize, len(rows)))


def window(rows: Sequence[T], query: WindowQuery, show: Callable[[T], object]) -> Page:
    shown = [show(row) for row in rows[query.offset : query.offset + query.limit]]
    return Page(shown, Window(query.limit, query.offset, len(rows)))


def continued(
    rows: Sequence[T],
    query: ContinuedQuery,
    show: Callable[[T], object],
    *,
    key: Callable[[T], Key],
    filters: str = "",
) -> Page:
    """The rows after the token's. `rows` are in rising order of `key`, which is unique.

    A walk sees each row that stays once, whatever comes and goes meanwhile. `filters` is whatever
    else chose the rows: a token is good for the same choice only. Raises Invalid.
    """
    start = 0
    if query.page_token:
        start = bisect_right(rows, _after(query.page_token, filters), key=key)
    found = rows[start : start + query.page_size]
    is_last = start + query.page_size >= len(rows)
    token = None if is_last else _token(key(found[-1]), filters)
    return Page([show(row) for row in found], Continued(token))


def _token(key: Key, filters: str) -> str:
    told = json.dumps([*key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_check(told, filters) + told).decode().rstrip("=")


def _after(token: str, filters: str) -> Key:
    wrong = Invalid([Problem("query.page_token", "is not of this list: begin without one")])
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        check, told = raw[:8], raw[8:]
        if check != _check(told, filters):
            raise wrong
        return tuple(json.loads(told))
    except (binascii.Error, ValueError, TypeError) as error:
        raise wrong from error


def _check(told: bytes, filters: str) -> bytes:
    """Guards against tokens of other lists and against slips, not against people."""
    return hashlib.sha256(told + b"\0" + filters.encode()).digest()[:8]
