"""The HTTP server: finds the route, checks the token, parses, calls, renders. Nothing else does."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pydantic
from aiohttp import web
from pydantic import BaseModel

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import (
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    OrcaError,
    Problem,
    TooLarge,
    Unauthenticated,
)
from orca_master.http.dialects import Dialect, for_path
from orca_master.http.route import Call, Caller, Open, Reply, Route, Text

MAX_BODY_BYTES = 1 << 20
SHUTDOWN_SECONDS = 5.0

log = get_logger("http")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """Serves the routes on one address. Raises ValueError for two routes of one method and path.

    `authenticate` turns an `Authorization` header's value into a caller, or raises Unauthenticated.
    """

    def __init__(
        self, env: Env, routes: Sequence[Route], authenticate: Callable[[str | None], Caller]
    ) -> None:
        self._env = env
        self._authenticate = authenticate

        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        self._app = web.Application(middlewares=[guard], client_max_size=MAX_BODY_BYTES)
        seen: set[tuple[str, str]] = set()
        for route in routes:
            if (route.method, route.path) in seen:
                raise ValueError(f"two routes for {route.method} {route.path}")
            seen.add((route.method, route.path))
            self._app.router.add_route(route.method, route.path, self._endpoint(route))
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self._runner = web.AppRunner(
            self._app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handle_signals=False
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, backlog=1024).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Around everything, unmatched paths included: errors in the family's form, and the log."""
        request_id = self._env.new_id()
        started = self._env.monotonic()
        dialect = for_path(request.path)
        try:
            response = await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            refusal = MethodNotAllowed(
                f"{request.method} is not possible here; possible: {allowed}"
            )
            response = _json(dialect.error(refusal, request_id=request_id), refusal.status)
            response.headers["Allow"] = allowed
        except web.HTTPException as error:
            translated = _translate(error, request.path)
            response = _json(dialect.error(translated, request_id=request_id), translated.status)
        except OrcaError as error:
            response = _error(dialect, error, request_id)
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client has gone away
        except Exception as error:  # a fault of ours: the caller gets the id, the log the rest
            log.error("request failed", request_id=request_id, path=request.path, exc_info=error)
            fault = OrcaError(f"internal error; the server's log has it as {request_id}")
            response = _error(dialect, fault, request_id)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
        log.debug(
            "request answered",
            method=request.method,
            path=request.path,
            status=response.status,
            seconds=round(self._env.monotonic() - started, 4),
            request_id=request_id,
        )
        return response

    def _endpoint(self, route: Route) -> _Handler:
        async def endpoint(request: web.Request) -> web.StreamResponse:
            caller = self._authorise(route, request)
            call = Call(
                path=dict(request.match_info),
                query=_parse_query(route.query, request.query),
                body=await _parse_body(route.body, request),
                caller=caller,
            )
            result = await route.handle(call)
            if isinstance(result, Text):
                return await _stream(request, result)
            reply = result if isinstance(result, Reply) else Reply(result)
            return _json(route.dialect.success(reply.value), reply.status)

        return endpoint

    def _authorise(self, route: Route, request: web.Request) -> Caller | None:
        if isinstance(route.permission, Open):
            return None
        caller = self._authenticate(request.headers.get("Authorization"))
        if not caller.may(route.permission):
            raise Forbidden(f"this token lacks the permission {route.permission}")
        return caller


def _parse_query(model: type[BaseModel], query: Mapping[str, str]) -> BaseModel:
    try:
        return model.model_validate(dict(query))
    except pydantic.ValidationError as error:
        raise Invalid(_problems(error, "query")) from error


async def _parse_body(model: type[BaseModel] | None, request: web.Request) -> BaseModel | None:
    if model is None:
        return None
    raw = await request.read()
    try:
        return model.model_validate_json(raw or b"{}")
    except pydantic.ValidationError as error:
        raise Invalid(_problems(error, "")) from error


def _problems(error: pydantic.ValidationError, prefix: str) -> list[Problem]:
    found = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "is not known here"
        found.append(Problem(".".join(filter(None, (prefix, where))), message))
    return found


def _translate(error: web.HTTPException, path: str) -> OrcaError:
    if isinstance(error, web.HTTPNotFound):
        return NotFound("path", path[:200])
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return TooLarge(f"a request body may have at most {MAX_BODY_BYTES} bytes")
    return Invalid([Problem("", error.reason)])


def _error(dialect: Dialect, error: OrcaError, request_id: str) -> web.Response:
    response = _json(dialect.error(error, request_id=request_id), error.status)
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        response.headers["Retry-After"] = "1"
    return response


def _json(value: Any, status: int) -> web.Response:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return web.Response(text=text + "\n", status=status, content_type="application/json")


async def _stream(request: web.Request, text: Text) -> web.StreamResponse:
    first = await anext(text.parts, b"")
    response = web.StreamResponse(headers={"Content-Type": text.content_type})
    await response.prepare(request)
    await response.write(first)
    async for part in text.parts:
        await response.write(part)
    await response.write_eof()
    return response
