"""The HTTP server: finds the route and who answers it, checks the token, parses, calls, renders."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from orca_common.cancelling import go_on_unless_cancelled
from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import (
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    NotLeader,
    OrcaError,
    OutcomeUnknown,
    Problem,
    Refusal,
    TooLarge,
    TooSlow,
    Unauthenticated,
)
from orca_master.http.dialects import Dialect, for_path
from orca_master.http.doorman import Doorman
from orca_master.http.forward import (
    CLIENT_HEADER,
    ERROR_HEADER,
    REQUEST_ID_HEADER,
    SAFE_METHODS,
    Forwarder,
    client_of,
)
from orca_master.http.meters import HttpMeters
from orca_master.http.names import is_name
from orca_master.http.once import OnceKey, once_key
from orca_master.http.parse import parse_body, parse_query
from orca_master.http.route import Call, Caller, Open, Reply, Route, Served, Text
from orca_master.http.sending import send, write
from orca_master.http.strict import check_media_type
from orca_master.state.log import LogFailed

MAX_BODY_BYTES = 1 << 20
BACKLOG = 1024
BODY_SECONDS = 30.0
REVOKED_SECONDS = 1.0
"""How often it is looked whether the token of a stream still works."""
SHUTDOWN_SECONDS = 5.0
PATIENCE_SECONDS = 3.0
"""How long a request waits for somebody to lead: an election takes less."""
BETWEEN_TRIES_SECONDS = 0.05
AGE_HEADER = "X-Orca-Age-Seconds"
KEY_HEADER = "Idempotency-Key"

log = get_logger("http")

_encoder = msgspec.json.Encoder()
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_REQUEST_ID = web.RequestKey("request_id", str)


class HttpServer:
    """Serves the routes. Raises ValueError for two routes of one method and path.

    `authenticate` turns an `Authorization` header's value into a caller, or raises Unauthenticated.
    `age`: seconds since this master's own state was certainly the latest. With a `forwarder` the
    leader's requests are passed on to it; without one they are answered here, as NotLeader if need
    be: that is the server on the port between masters, where `peer_of` says who asks.
    """

    def __init__(
        self,
        env: Env,
        routes: Sequence[Route],
        authenticate: Callable[[str | None], Caller],
        *,
        age: Callable[[], float] = lambda: 0.0,
        forwarder: Forwarder | None = None,
        meters: HttpMeters | None = None,
        peer_of: Callable[[web.Request], str] | None = None,
    ) -> None:
        self._env = env
        self._authenticate = authenticate
        self._age = age
        self._forwarder = forwarder
        self._meters = meters
        self._peer_of = peer_of

        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        self._app = web.Application(middlewares=[guard], client_max_size=MAX_BODY_BYTES)
        seen: set[tuple[str, str]] = set()
        for route in routes:
            if (route.method, route.path) in seen:
                raise ValueError(f"two routes for {route.method} {route.path}")
            seen.add((route.method, route.path))
            if route.permission is not Open.MASTERS or peer_of is not None:
                self._app.router.add_route(route.method, route.path, self._endpoint(route))
        self._runner = web.AppRunner(
            self._app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handle_signals=False
        )

        self._doorman = Doorman(self._protocol)
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        await self.prepare()
        self._listening = await asyncio.get_running_loop().create_server(
            self._doorman.accept, host, port, backlog=BACKLOG
        )

    async def prepare(self) -> None:
        """Be ready for `accept`, without a port of its own."""
        await self._runner.setup()

    def accept(self) -> asyncio.BaseProtocol:
        """What speaks for one connection that somebody else has accepted."""
        return self._doorman.accept()

    def _protocol(self) -> asyncio.BaseProtocol:
        assert self._runner.server is not None, "prepare comes first"
        protocol: asyncio.BaseProtocol = self._runner.server()
        return protocol

    async def close(self) -> None:
        """Take no more connections, and give what is under way a few seconds."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()
        self._doorman.close()
        await asyncio.sleep(0)  # connections that were closed just now end in the loop's next turn

    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Around everything, unmatched paths included: errors in the family's form, and the log."""
        is_between_masters = self._peer_of is not None
        told = request.headers if is_between_masters else {}
        request_id = request[_REQUEST_ID] = told.get(REQUEST_ID_HEADER) or self._env.new_id()
        started = self._env.monotonic()
        self._doorman.arrived(request.transport)
        response = await self._answer_or_refuse(request, handler, request_id)
        if not response.prepared:
            response.headers[REQUEST_ID_HEADER] = request_id
        await send(request, response)
        self._doorman.answered(request.transport)
        seconds = self._env.monotonic() - started
        if self._meters is not None:
            self._meters.observe(request, response.status, seconds)
        log.debug(
            "request answered",
            method=request.method,
            path=request.path,
            client=told.get(CLIENT_HEADER) or client_of(request),
            status=response.status,
            seconds=round(seconds, 4),
            request_id=request_id,
        )
        return response

    async def _answer_or_refuse(
        self, request: web.Request, handler: _Handler, request_id: str
    ) -> web.StreamResponse:
        dialect = for_path(request.path)
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            refusal = MethodNotAllowed(
                f"{request.method} is not possible here; possible: {allowed}"
            )
            response = _error(dialect, refusal, request_id)
            response.headers["Allow"] = allowed
            return response
        except web.HTTPException as error:
            return _error(dialect, _translate(error, request.path), request_id)
        except OrcaError as error:
            return self._refused(dialect, error, request_id)
        except LogFailed as failure:  # this master is about to end; nobody here can know more
            unknown = OutcomeUnknown(f"this master stops ({failure}); look, then ask again")
            return self._refused(dialect, unknown, request_id)
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client has gone away
        except Exception as error:  # a fault of ours: the caller gets the id, the log the rest
            log.error("request failed", request_id=request_id, path=request.path, exc_info=error)
            fault = OrcaError(f"internal error; the server's log has it as {request_id}")
            return _error(dialect, fault, request_id)

    def _refused(self, dialect: Dialect, error: OrcaError, request_id: str) -> web.Response:
        response = _error(dialect, error, request_id)
        if self._peer_of is not None:
            response.headers[ERROR_HEADER] = error.code
        return response

    def _endpoint(self, route: Route) -> _Handler:
        async def endpoint(request: web.Request) -> web.StreamResponse:
            body = await _read(request, route)
            stale = _wants_stale(route, request)
            if self._forwarder is None or stale or route.served is Served.HERE:
                return await self._answer(route, request, body, stale=stale)
            return await self._through_leader(self._forwarder, route, request, body)

        return endpoint

    async def _through_leader(
        self, forwarder: Forwarder, route: Route, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        """Ask whoever leads, and again if he does not any more: NotLeader says that nothing was done."""
        deadline = self._env.monotonic() + PATIENCE_SECONDS
        while True:
            address = await forwarder.leading.leader(deadline - self._env.monotonic())
            try:
                if address is None:
                    return await self._answer(route, request, body, stale=False)
                return await forwarder.pass_on(
                    address, request, body, request_id=request[_REQUEST_ID]
                )
            except NotLeader:
                if self._env.monotonic() >= deadline:
                    raise
                await asyncio.sleep(BETWEEN_TRIES_SECONDS)

    async def _answer(
        self, route: Route, request: web.Request, body: bytes, *, stale: bool
    ) -> web.StreamResponse:
        caller = self._authorise(route, request)
        query = {name: request.query.getall(name) for name in request.query}
        query.pop("consistency", None)
        call = Call(
            path=_checked(dict(request.match_info)),
            query=parse_query(route.query, query),
            body=parse_body(route.body, body),
            caller=caller,
            stale=stale,
            once=_once(route, request, caller, body),
            peer=self._peer_of(request) if self._peer_of is not None else None,
        )
        age = self._age()
        result = await route.handle(call)
        headers = {AGE_HEADER: f"{age:.3f}"} if stale else {}
        if isinstance(result, Text):
            return await self._stream(route, request, result)
        reply = result if isinstance(result, Reply) else Reply(result)
        return _json(route.dialect.success(reply.value), reply.status, headers)

    async def _stream(self, route: Route, request: web.Request, text: Text) -> web.StreamResponse:
        """Ends, broken off, when the caller's token is revoked meanwhile."""
        first = await anext(text.parts, b"")
        headers = {"Content-Type": text.content_type, REQUEST_ID_HEADER: request[_REQUEST_ID]}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._until_revoked(route, request))
                await write(request, response, first)
                async for part in text.parts:
                    await write(request, response, part)
                raise _AllSent
        except* _AllSent:
            go_on_unless_cancelled()
        except* Refusal:
            go_on_unless_cancelled()
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionError("the token was revoked while it was answered") from None
        return response

    async def _until_revoked(self, route: Route, request: web.Request) -> None:
        """Raises Unauthenticated or Forbidden."""
        while True:
            await asyncio.sleep(REVOKED_SECONDS)
            self._authorise(route, request)

    def _authorise(self, route: Route, request: web.Request) -> Caller | None:
        if isinstance(route.permission, Open):
            return None
        caller = self._authenticate(request.headers.get("Authorization"))
        if not caller.may(route.permission):
            raise Forbidden(f"this token lacks the permission {route.permission}")
        return caller


async def _read(request: web.Request, route: Route) -> bytes:
    """The body. Raises TooSlow, UnsupportedMediaType; too large a one is the framework's error."""
    if not request.body_exists:
        return b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError as error:
        raise TooSlow(f"the body did not come within {BODY_SECONDS:g} s") from error
    if body and route.body is not None:
        check_media_type(request.content_type, request.charset)
    return body


def _checked(path: dict[str, str]) -> dict[str, str]:
    wrong = [part for part in path.keys() & {"name", "project", "id"} if not is_name(path[part])]
    if wrong:
        raise Invalid([Problem(f"path.{part}", "is no name") for part in wrong])
    return path


class _AllSent(Exception):
    """Ends the watch over a stream."""


def _wants_stale(route: Route, request: web.Request) -> bool:
    wanted = request.query.get("consistency", "linearizable")
    if wanted == "linearizable":
        return False
    if wanted != "stale":
        raise Invalid([Problem("query.consistency", "must be linearizable or stale")])
    if route.served is Served.LEADER:
        raise Invalid([Problem("query.consistency", "stale is not possible here")])
    return True


def _once(route: Route, request: web.Request, caller: Caller | None, body: bytes) -> OnceKey | None:
    key = request.headers.get(KEY_HEADER)
    if key is None or request.method in SAFE_METHODS:
        return None
    if not route.takes_key or caller is None:
        raise Invalid([Problem(KEY_HEADER, "is not taken here: this request keeps no result")])
    return once_key(caller.tenant, key, method=request.method, target=request.raw_path, body=body)


def _translate(error: web.HTTPException, path: str) -> OrcaError:
    if isinstance(error, web.HTTPNotFound):
        return NotFound("path", path[:200])
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return TooLarge(f"a request body may have at most {MAX_BODY_BYTES} bytes")
    return Invalid([Problem("", error.reason)])


def _error(dialect: Dialect, error: OrcaError, request_id: str) -> web.Response:
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = "1"
    return _json(dialect.error(error, request_id=request_id), error.status, headers)


def _json(value: Any, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(
        body=_encoder.encode(value) + b"\n",
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )
