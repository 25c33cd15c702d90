"""The HTTP server: finds the route and who answers it, checks the token, parses, calls, renders."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from orca_common.cancelling import go_on_unless_cancelled
from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import (
    ExpectationFailed,
    Forbidden,
    Invalid,
    MethodNotAllowed,
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
from orca_master.http.matching import Parts, RouteTable
from orca_master.http.meters import HttpMeters
from orca_master.http.names import is_name
from orca_master.http.once import OnceKey, once_key
from orca_master.http.parse import CONSISTENCY, parse_body, parse_query, query_values
from orca_master.http.route import Call, Caller, Open, Reply, Route, Served, Text
from orca_master.http.sending import LAST, Answer, end, send, write
from orca_master.http.strict import check_media_type
from orca_master.state.log import LogFailed

MAX_BODY_BYTES = 1 << 20
"""The framework's own limit; a compressed body counts as what it inflates to."""
BACKLOG = 1024
"""Connections that the system keeps until they are accepted."""
ACCEPTED_AT_ONCE = 16
"""In one turn of the loop, which takes as many as it is told to keep: a thousand would stop it."""
BODY_SECONDS = 20.0
LINGERING_SECONDS = 2.0
"""How long more of a body is read that was refused before its end, so that the refusal arrives."""
REVOKED_SECONDS = 1.0
"""How often it is looked whether the token of a stream still works."""
SHUTDOWN_SECONDS = 5.0
PATIENCE_SECONDS = 3.0
"""How long a request waits for somebody to lead: an election takes less."""
BETWEEN_TRIES_SECONDS = 0.05
AGE_HEADER = "X-Orca-Age-Seconds"
KEY_HEADER = "Idempotency-Key"
NAMES = frozenset({"name", "project", "id"})
"""Parts of paths that have to be names."""

log = get_logger("http")

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class _Asked:
    """One request on its way through the kit. `route` None: none was found (yet)."""

    request: web.BaseRequest
    id: str
    route: Route | None = None
    parts: Parts = field(default_factory=dict)
    body: bytes = b""


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
        peer_of: Callable[[web.BaseRequest], str] | None = None,
    ) -> None:
        self._env = env
        self._authenticate = authenticate
        self._age = age
        self._forwarder = forwarder
        self._meters = meters
        self._peer_of = peer_of

        self._routes = RouteTable(
            route for route in routes if route.permission is not Open.MASTERS or peer_of is not None
        )
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None
        self._doorman = Doorman(self._protocol)
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        await self.prepare()
        self._listening = await asyncio.get_running_loop().create_server(
            self._doorman.accept, host, port, backlog=ACCEPTED_AT_ONCE
        )
        for listening in self._listening.sockets:
            with socket.fromfd(listening.fileno(), listening.family, listening.type) as same:
                same.listen(BACKLOG)

    async def prepare(self) -> None:
        """Be ready for `accept`, without a port of its own."""
        self._server = web.Server(self._serve, access_log=None, lingering_time=LINGERING_SECONDS)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()

    def accept(self) -> asyncio.BaseProtocol:
        """What speaks for one connection that somebody else has accepted."""
        return self._doorman.accept()

    def _protocol(self) -> asyncio.BaseProtocol:
        assert self._server is not None, "prepare comes first"
        return self._server()

    async def close(self) -> None:
        """Take no more connections, and give what is under way a few seconds."""
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._doorman.close()
        await asyncio.sleep(0)  # connections that were closed just now end in the loop's next turn

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Around everything, unmatched paths included: errors in the family's form, and the log."""
        told = request.headers if self._peer_of is not None else {}
        asked = _Asked(request, told.get(REQUEST_ID_HEADER) or self._env.new_id())
        started, transport = self._env.monotonic(), request.transport
        self._doorman.arrived(transport)
        try:
            answer = await self._answer_or_refuse(asked)
            if isinstance(answer, Answer):
                answer.headers[REQUEST_ID_HEADER] = asked.id
                response = await send(request, answer, now=self._env.now())
            else:
                await end(request, answer)
                response = answer
        except ConnectionError as error:
            log.debug("request broken off", path=request.path, reason=str(error))
            return LAST
        self._doorman.answered(transport)
        self._note(asked, answer.status, self._env.monotonic() - started)
        return response

    def _note(self, asked: _Asked, status: int, seconds: float) -> None:
        if self._meters is not None:
            self._meters.observe(asked.route, status, seconds)
        if log.is_enabled_for(logging.DEBUG):  # else the fields are not worth making
            request = asked.request
            told = request.headers if self._peer_of is not None else {}
            log.debug(
                "request answered",
                method=request.method,
                path=request.path,
                client=told.get(CLIENT_HEADER) or client_of(request),
                status=status,
                seconds=round(seconds, 4),
                request_id=asked.id,
            )

    async def _answer_or_refuse(self, asked: _Asked) -> Answer | web.StreamResponse:
        request = asked.request
        try:
            route, asked.parts = self._routes.find(request.method, request.rel_url.path_safe)
            asked.route = route
            asked.body = await _read(request, route)
            stale = _wants_stale(route, request)
            if self._forwarder is None or stale or route.served is Served.HERE:
                return await self._answer(route, asked, stale=stale)
            return await self._through_leader(self._forwarder, route, asked)
        except OrcaError as error:
            return self._refused(asked, error)
        except LogFailed as failure:  # this master is about to end; nobody here can know more
            unknown = OutcomeUnknown(f"this master stops ({failure}); look, then ask again")
            return self._refused(asked, unknown)
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client has gone away
        except Exception as error:  # a fault of ours: the caller gets the id, the log the rest
            log.error("request failed", request_id=asked.id, path=request.path, exc_info=error)
            fault = OrcaError(f"internal error; the server's log has it as {asked.id}")
            return _error(for_path(request.path), fault, asked.id)

    def _refused(self, asked: _Asked, error: OrcaError) -> Answer:
        answer = _error(for_path(asked.request.path), error, asked.id)
        if self._peer_of is not None:
            answer.headers[ERROR_HEADER] = error.code
        return answer

    async def _through_leader(
        self, forwarder: Forwarder, route: Route, asked: _Asked
    ) -> Answer | web.StreamResponse:
        """Ask whoever leads, and again if he does not any more: NotLeader says that nothing was done."""
        deadline = self._env.monotonic() + PATIENCE_SECONDS
        while True:
            address = await forwarder.leading.leader(deadline - self._env.monotonic())
            try:
                if address is None:
                    return await self._answer(route, asked, stale=False)
                return await forwarder.pass_on(
                    address, asked.request, asked.body, request_id=asked.id
                )
            except NotLeader:
                if self._env.monotonic() >= deadline:
                    raise
                await asyncio.sleep(BETWEEN_TRIES_SECONDS)

    async def _answer(
        self, route: Route, asked: _Asked, *, stale: bool
    ) -> Answer | web.StreamResponse:
        request = asked.request
        caller = self._authorise(route, request)
        call = Call(
            path=_checked(asked.parts),
            query=parse_query(route.query, request.rel_url.raw_query_string),
            body=parse_body(route.body, asked.body),
            caller=caller,
            stale=stale,
            once=_once(route, asked, caller),
            peer=self._peer_of(request) if self._peer_of is not None else None,
        )
        age = self._age()
        result = await route.handle(call)
        if isinstance(result, Text):
            return await self._stream(route, asked, result)
        reply = result if isinstance(result, Reply) else Reply(result)
        answer = _json(route.dialect.success(reply.value), reply.status)
        if stale:
            answer.headers[AGE_HEADER] = f"{age:.3f}"
        return answer

    async def _stream(self, route: Route, asked: _Asked, text: Text) -> web.StreamResponse:
        """Ends, broken off, when the caller's token is revoked meanwhile."""
        request = asked.request
        first = await anext(text.parts, b"")
        headers = {"Content-Type": text.content_type, REQUEST_ID_HEADER: asked.id}
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

    async def _until_revoked(self, route: Route, request: web.BaseRequest) -> None:
        """Raises Unauthenticated or Forbidden."""
        while True:
            await asyncio.sleep(REVOKED_SECONDS)
            self._authorise(route, request)

    def _authorise(self, route: Route, request: web.BaseRequest) -> Caller | None:
        if isinstance(route.permission, Open):
            return None
        caller = self._authenticate(request.headers.get("Authorization"))
        if not caller.may(route.permission):
            raise Forbidden(f"this token lacks the permission {route.permission}")
        return caller


async def _read(request: web.BaseRequest, route: Route) -> bytes:
    """The body. Raises ExpectationFailed, TooSlow, TooLarge, Invalid, UnsupportedMediaType."""
    if not request.body_exists:
        return b""
    if "Expect" in request.headers:
        await _go_on(request)
    content = request.content
    try:
        if content.is_eof():  # it came with the head: nothing is waited for
            body = content.read_nowait()
        else:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
    except TimeoutError as error:
        raise TooSlow(f"the body did not come within {BODY_SECONDS:g} s") from error
    except web.HTTPRequestEntityTooLarge:
        body = None
    except web.RequestPayloadError as error:
        raise Invalid([Problem("", f"the body cannot be read: {error}")]) from error
    if body is None or len(body) > MAX_BODY_BYTES:
        raise TooLarge(f"a request body may have at most {MAX_BODY_BYTES} bytes")
    if body and route.body is not None:
        check_media_type(request.headers.get("Content-Type"))
    return body


async def _go_on(request: web.BaseRequest) -> None:
    """Whoever asks before he sends a body is told to. Raises ExpectationFailed."""
    if request.headers["Expect"].lower() != "100-continue":
        raise ExpectationFailed("the header Expect may be 100-continue, or left out")
    if request.transport is not None and not request.content.is_eof():
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _checked(path: Parts) -> Parts:
    wrong = [part for part in path if part in NAMES and not is_name(path[part])]
    if wrong:
        raise Invalid([Problem(f"path.{part}", "is no name") for part in wrong])
    return path


class _AllSent(Exception):
    """Ends the watch over a stream."""


def _wants_stale(route: Route, request: web.BaseRequest) -> bool:
    text = request.rel_url.raw_query_string
    wanted = query_values(text).get(CONSISTENCY, ["linearizable"])[0]
    if wanted == "linearizable":
        return False
    if wanted != "stale":
        raise Invalid([Problem("query.consistency", "must be linearizable or stale")])
    if route.served is Served.LEADER:
        raise Invalid([Problem("query.consistency", "stale is not possible here")])
    return True


def _once(route: Route, asked: _Asked, caller: Caller | None) -> OnceKey | None:
    request = asked.request
    key = request.headers.get(KEY_HEADER)
    if key is None or request.method in SAFE_METHODS:
        return None
    if not route.takes_key or caller is None:
        raise Invalid([Problem(KEY_HEADER, "is not taken here: this request keeps no result")])
    return once_key(
        caller.tenant, key, method=request.method, target=request.raw_path, body=asked.body
    )


def _error(dialect: Dialect, error: OrcaError, request_id: str) -> Answer:
    answer = _json(dialect.error(error, request_id=request_id), error.status)
    if isinstance(error, Unauthenticated):
        answer.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        answer.headers["Allow"] = error.allowed
    if error.status == 503:
        answer.headers["Retry-After"] = "1"
    return answer


def _json(value: object, status: int) -> Answer:
    body = _encoder.encode(value) + b"\n"
    return Answer(status, body, {"Content-Type": "application/json; charset=utf-8"})
