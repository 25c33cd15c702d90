"""The four dialects: one error and one result, said in the way of each family of routes."""

from typing import Any

import pytest

from orca_master.errors import (
    Conflict,
    Invalid,
    Malformed,
    NotAcceptable,
    NotFound,
    OrcaError,
    Problem,
    StorageFull,
    Unauthenticated,
)
from orca_master.http.dialects import (
    CLUSTER,
    CONTROL,
    DAG,
    OPS,
    Continued,
    Dialect,
    Exchange,
    Numbered,
    Page,
    Window,
    for_path,
)

EXCHANGE = Exchange("r1", "0" * 30 + "a1", 1.5, "/tasks", "status=a+b&limit=2")
META = {"requestId": "r1", "timestamp": "1970-01-01T00:00:01.500Z"}
WRONG = Invalid([Problem("name", "is no name")])


def test_an_error_in_each_dialect() -> None:
    error = Unauthenticated("send a token")
    assert CLUSTER.error(error, EXCHANGE) == {
        "error": "send a token",
        "code": "UNAUTHENTICATED",
        "request_id": "r1",
    }
    assert CONTROL.error(error, EXCHANGE) == {
        "success": False,
        "error": {"code": "AUTH_UNAUTHENTICATED", "message": "send a token"},
        "meta": META,
    }
    assert DAG.error(error, EXCHANGE) == {
        "error": {
            "code": "UNAUTHENTICATED",
            "message": "send a token",
            "trace_id": EXCHANGE.trace_id,
        }
    }
    assert OPS.error(error, EXCHANGE) == {"success": False, "error": "send a token"}


def test_every_mistake_is_told_where_the_form_has_room_for_it() -> None:
    errors: list[Any] = [dialect.error(WRONG, EXCHANGE) for dialect in (CLUSTER, CONTROL, DAG)]
    cluster, control, dag = errors
    assert cluster["problems"] == [{"field": "name", "message": "is no name"}]
    assert control["error"]["validationErrors"] == [
        {"field": "name", "message": "is no name", "code": "INVALID"}
    ]
    assert dag["error"]["details"] == [{"field": "name", "message": "is no name"}]


@pytest.mark.parametrize(
    ("error", "usual", "ops"),
    [
        (WRONG, 400, 422),
        (Malformed([Problem("", "is not JSON")]), 400, 400),
        (Conflict("it exists"), 409, 422),
        (NotFound("task", "t"), 404, 404),
        (StorageFull("full"), 507, 507),
    ],
)
def test_statuses(error: OrcaError, usual: int, ops: int) -> None:
    assert [d.status(type(error)) for d in (CLUSTER, CONTROL, DAG)] == [usual] * 3
    assert OPS.status(type(error)) == ops


def test_results() -> None:
    assert CLUSTER.success([1], EXCHANGE) == DAG.success([1], EXCHANGE) == [1]
    assert CONTROL.success([1], EXCHANGE) == {"success": True, "data": [1], "meta": META}
    assert OPS.success([1], EXCHANGE) == {"success": True, "data": [1]}


def test_pages() -> None:
    told = CONTROL.success(Page([3, 4], Numbered(2, 2, 5)), EXCHANGE)
    assert told == {
        "success": True,
        "data": [3, 4],
        "meta": {
            **META,
            "pagination": {
                "page": 2,
                "pageSize": 2,
                "totalItems": 5,
                "totalPages": 3,
                "hasNext": True,
                "hasPrevious": True,
            },
        },
    }
    assert DAG.success(Page([1], Continued("t")), EXCHANGE) == {
        "items": [1],
        "next_page_token": "t",
    }
    page = Page([3, 4], Window(limit=2, offset=2, total=5))
    assert OPS.success(page, EXCHANGE) == {"success": True, "data": [3, 4]}
    assert OPS.headers(page, EXCHANGE) == {
        "X-Total-Count": "5",
        "X-Limit": "2",
        "X-Offset": "2",
        "Link": '</tasks?status=a+b&offset=4&limit=2>; rel="next", '
        '</tasks?status=a+b&offset=0&limit=2>; rel="prev"',
    }
    assert "Link" not in OPS.headers(Page([], Window(limit=50, offset=0, total=0)), EXCHANGE)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/api/v1/services/web/nope", CLUSTER),
        ("/api/v1/status/x", CLUSTER),
        ("/internal/v1/x", CLUSTER),
        ("/api/v1/orchestrator/nope", DAG),
        ("/api/v1/environments/x", CONTROL),
        ("/api/v1/statuses", CONTROL),
        ("/tasks", OPS),
        ("/", OPS),
        ("/api/v2/x", OPS),
    ],
)
def test_a_path_without_a_route_has_the_form_of_its_prefix(path: str, dialect: Dialect) -> None:
    assert for_path(path) is dialect


@pytest.mark.parametrize(
    "accept", ["", "*/*", "application/json", OPS.media_type, f"{OPS.media_type};q=0.5, text/html"]
)
def test_version_one_is_spoken(accept: str) -> None:
    OPS.check_accept(accept)


def test_another_version_is_not() -> None:
    with pytest.raises(NotAcceptable, match="version 1"):
        OPS.check_accept("application/vnd.provisioning.v2+json")
    OPS.check_accept("application/vnd.provisioning.v2+json, */*;q=0.1")
