"""Which route a request is for."""

from typing import Any

import pytest

from orca_common.real import real_env
from orca_master.errors import MethodNotAllowed, NotFound, Unauthenticated
from orca_master.http.dialects import CLUSTER
from orca_master.http.matching import RouteTable
from orca_master.http.route import Caller, Open, Route
from orca_master.http.server import HttpServer


def a_route(line: str, permission: Any = Open.PUBLIC) -> Route:
    async def handle(call: object) -> object:
        return line

    return Route(line, permission, handle, "", dialect=CLUSTER)


LINES = [
    "GET /a",
    "POST /a",
    "GET /a/{name}",
    "DELETE /a/{name}",
    "GET /a/list",
    "GET /a/{name}/b/{id}",
]


def table() -> RouteTable:
    return RouteTable(a_route(line) for line in LINES)


@pytest.mark.parametrize(
    ("method", "path", "line", "parts"),
    [
        ("GET", "/a", "GET /a", {}),
        ("POST", "/a", "POST /a", {}),
        ("GET", "/a/", "GET /a", {}),
        ("GET", "/a/x/", "GET /a/{name}", {"name": "x"}),
        ("GET", "/a/x", "GET /a/{name}", {"name": "x"}),
        ("GET", "/a/list", "GET /a/list", {}),
        ("DELETE", "/a/list", "DELETE /a/{name}", {"name": "list"}),
        ("GET", "/a/x/b/y", "GET /a/{name}/b/{id}", {"name": "x", "id": "y"}),
        ("GET", "/a/x%2Fy", "GET /a/{name}", {"name": "x/y"}),
        ("GET", "/a/%252F", "GET /a/{name}", {"name": "%2F"}),
    ],
)
def test_a_route_is_found_by_method_and_path(
    method: str, path: str, line: str, parts: dict[str, str]
) -> None:
    route, found = table().find(method, path)
    assert (f"{route.method} {route.path}", found) == (line, parts)


@pytest.mark.parametrize("path", ["/", "", "/b", "/a//", "/a/x//", "/a/x/c", "/a//b/y", "//a"])
def test_what_no_route_has_is_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        table().find("GET", path)


@pytest.mark.parametrize(
    ("path", "allowed"), [("/a", "GET, POST"), ("/a/x", "DELETE, GET"), ("/a/list", "DELETE, GET")]
)
def test_another_method_is_told_which_are_possible(path: str, allowed: str) -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        table().find("PUT", path)
    assert refused.value.allowed == allowed


def test_two_routes_of_one_method_and_path_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two routes for GET /a/\{name\}"):
        RouteTable([a_route("GET /a/{name}"), a_route("GET /a/{name}")])


@pytest.mark.parametrize("permission", [None, "", "services:read", True])
def test_a_route_without_a_permission_keeps_the_server_from_starting(permission: object) -> None:
    route = a_route("GET /b", permission)
    with pytest.raises(ValueError, match="GET /b has no permission"):
        HttpServer(real_env(threads=1), [a_route("GET /a"), route], refuse)


def refuse(authorization: str | None) -> Caller:
    raise Unauthenticated("send a token")
