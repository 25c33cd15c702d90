"""The web kit over a real socket: one little route of each family, its errors, pages and limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import structlog
from pydantic import Field

from integration.conftest import free_ports
from orca_common.real import real_env
from orca_master.errors import Conflict, OrcaError, Unauthenticated
from orca_master.http.access import Access, AccessLog, shown_target
from orca_master.http.dialects import CONTROL, DAG, OPS
from orca_master.http.pages import (
    ContinuedQuery,
    NumberedQuery,
    WindowQuery,
    continued,
    numbered,
    window,
)
from orca_master.http.rates import Limit, Rate, Rates
from orca_master.http.route import Call, Open, Route, StrictModel
from orca_master.http.server import HttpServer

ROWS = [f"row {n:02}" for n in range(45)]


class May(StrEnum):
    READ = "read"


class ThingIn(StrictModel):
    name: str = Field(max_length=5)
    size: int = 1


async def by_number(call: Call[NumberedQuery, None]) -> object:
    return numbered(ROWS, call.query, str)


async def by_token(call: Call[ContinuedQuery, None]) -> object:
    return continued(ROWS, call.query, str, key=lambda row: (row,))


async def by_offset(call: Call[WindowQuery, None]) -> object:
    return window(ROWS, call.query, str)


async def make(call: Call[Any, ThingIn]) -> object:
    if call.body.name == "taken":
        raise Conflict("it exists")
    return {"name": call.body.name}


async def break_down(_: Call[Any, Any]) -> object:
    raise RuntimeError("the secret inside")


ROUTES = [
    Route("GET /api/v1/things", May.READ, by_number, "", dialect=CONTROL, query=NumberedQuery),
    Route(
        "GET /api/v1/orchestrator/things",
        May.READ,
        by_token,
        "",
        dialect=DAG,
        query=ContinuedQuery,
        rate=Rate.STANDARD,
    ),
    Route(
        "GET /things", Open.PUBLIC, by_offset, "", dialect=OPS, query=WindowQuery, rate=Rate.AUTH
    ),
    Route("POST /api/v1/things", May.READ, make, "", dialect=CONTROL, body=ThingIn),
    Route("POST /api/v1/orchestrator/things", May.READ, make, "", dialect=DAG, body=ThingIn),
    Route("POST /things", May.READ, make, "", dialect=OPS, body=ThingIn),
    Route("GET /things/broken", May.READ, break_down, "", dialect=OPS),
]


def authenticate(header: str | None) -> Any:
    if header != "Bearer right":
        raise Unauthenticated("send a token")
    return SimpleNamespace(tenant="t", name="ann", project="", may=lambda _: True)


@asynccontextmanager
async def served(
    limits: dict[Rate, Limit] | None = None, access: Access = Access.ERRORS
) -> AsyncIterator[aiohttp.ClientSession]:
    env, port = real_env(), free_ports(1)
    stopped = SimpleNamespace(now=lambda: 1_000_000_000.0, monotonic=lambda: 0.0)
    rates = Rates(replace(env, clock=stopped), limits or {})  # in one minute, however slow it is
    server = HttpServer(env, ROUTES, authenticate, rates=rates, access=AccessLog(access))
    await server.start("127.0.0.1", port)
    headers = {"Authorization": "Bearer right"}
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as http:
            yield http
    finally:
        await server.close()


async def test_pages_of_each_family() -> None:
    async with served() as http:
        async with http.get("/api/v1/things?page=3&pageSize=20") as answer:
            told = await answer.json()
            assert told["data"] == ROWS[40:]
            assert told["meta"]["pagination"]["totalPages"] == 3
            assert told["meta"]["requestId"] == answer.headers["X-Request-Id"]
        seen, token = [], ""
        while token is not None:
            path = f"/api/v1/orchestrator/things?page_size=20&page_token={token}"
            async with http.get(path) as answer:
                told = await answer.json()
            seen += told["items"]
            token = told["next_page_token"]
        assert seen == ROWS
        async with http.get("/things?limit=20&offset=20") as answer:
            assert (await answer.json())["data"] == ROWS[20:40]
            assert answer.headers["X-Total-Count"] == "45"
            following = answer.headers["Link"].split(";")[0].strip("<>")
        async with http.get(following) as answer:
            assert (await answer.json())["data"] == ROWS[40:]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/things?page=0", 400),
        ("/api/v1/things?pageSize=101", 400),
        ("/api/v1/orchestrator/things?page_size=501", 400),
        ("/api/v1/orchestrator/things?page_token=nonsense", 400),
        ("/things?limit=1001", 422),
        ("/things?offset=-1", 422),
        ("/things?limit=abc", 422),
    ],
)
async def test_pages_that_are_none_in_20(path: str, status: int) -> None:
    async with served() as http, http.get(path) as answer:
        assert answer.status == status, await answer.text()


async def test_mistakes_of_a_body_in_each_family() -> None:
    wrong = {"name": "toolong", "size": "2", "more": 1}
    async with served() as http:
        async with http.post("/api/v1/things", json=wrong) as answer:
            errors = (await answer.json())["error"]["validationErrors"]
            assert (answer.status, {e["field"] for e in errors}) == (400, {"name", "size", "more"})
        async with http.post("/api/v1/orchestrator/things", json=wrong) as answer:
            assert (answer.status, len((await answer.json())["error"]["details"])) == (400, 3)
        async with http.post("/things", json=wrong) as answer:
            told = await answer.json()
            assert (answer.status, told["success"]) == (422, False)
            assert all(field in told["error"] for field in wrong)
        headers = {"Content-Type": "application/json"}
        async with http.post("/things", data=b"{", headers=headers) as answer:
            assert answer.status == 400, "malformed is not the same as wrong"


async def test_a_conflict_in_each_family() -> None:
    async with served() as http:
        for path, status in (
            ("/api/v1/things", 409),
            ("/api/v1/orchestrator/things", 409),
            ("/things", 422),
        ):
            async with http.post(path, json={"name": "taken"}) as answer:
                assert answer.status == status


async def test_a_fault_of_ours_is_a_500_and_tells_nothing_ht_29() -> None:
    async with served() as http:
        async with http.get("/things/broken") as answer:
            assert answer.status == 500
            told = await answer.json()
            assert answer.headers["X-Request-Id"] in told["error"]
            assert "secret" not in told["error"]
        async with http.get("/things") as answer:
            assert answer.status == 200


async def test_another_version_is_not_spoken() -> None:
    accept = {"Accept": "application/vnd.provisioning.v9+json"}
    async with served() as http, http.get("/things", headers=accept) as answer:
        assert (answer.status, (await answer.json())["success"]) == (406, False)


async def test_limits_are_told_and_held_by_caller_and_by_address() -> None:
    limits = {Rate.STANDARD: Limit(3, burst=1), Rate.AUTH: Limit(2)}
    async with served(limits) as http:
        statuses = []
        for _ in range(6):
            async with http.get("/api/v1/orchestrator/things") as answer:
                statuses.append(answer.status)
                left = answer.headers["X-RateLimit-Remaining"]
                told = await answer.json()
        assert statuses == [200] * 4 + [429] * 2
        assert (left, told["error"]["code"]) == ("0", "RATE_LIMITED")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        for _ in range(3):
            async with http.get("/things", headers={"Authorization": "Bearer wrong"}) as answer:
                pass
        assert answer.status == 429, "an open route counts addresses"
        async with http.get("/api/v1/things") as answer:
            assert "X-RateLimit-Limit" not in answer.headers, "what is in no bucket is not counted"


async def test_a_route_in_two_places_keeps_the_server_from_starting() -> None:
    with pytest.raises(ValueError, match="two routes for GET /things"):
        HttpServer(real_env(), [*ROUTES, ROUTES[2]], authenticate)


async def test_the_access_log_hides_secrets() -> None:
    with structlog.testing.capture_logs() as said:
        async with served(access=Access.ALL) as http:
            path = "/things?limit=1&token=very-secret&api_key=hidden&x=%0d%0aforged"
            async with http.get(path) as answer:
                assert answer.status == 422
            await asyncio.sleep(0)
    (line,) = [entry for entry in said if entry["event"] == "request answered"]
    assert (line["method"], line["status"], line["log_level"]) == ("GET", 422, "info")
    assert line["target"] == "/things?limit=1&token=***&api_key=***&x=%0D%0Aforged"
    assert "very-secret" not in str(said)
    assert len(line["trace_id"]) == 32


async def test_the_access_log_may_be_off() -> None:
    with structlog.testing.capture_logs() as said:
        async with served(access=Access.OFF) as http, http.get("/things/broken") as answer:
            assert answer.status == 500
    assert [entry["event"] for entry in said] == ["request failed"]


def test_a_long_target_is_cut_off() -> None:
    assert len(shown_target("/x" * 5000)) == 300


def test_an_error_has_no_headers_unless_it_says_so() -> None:
    assert OrcaError("x").headers == {}
