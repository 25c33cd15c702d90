"""The HTTP server: finds the route and who answers it, checks the token, parses, calls, renders."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from aiohttp import HttpVersion10, web

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import Forbidden, NotLeader, OrcaError, OutcomeUnknown
from orca_master.http.access import AccessLog
from orca_master.http.asked import Asked
from orca_master.http.dialects import Dialect, for_path
from orca_master.http.doorman import Doorman
from orca_master.http.forward import (
    CLIENT_HEADER,
    ERROR_HEADER,
    REQUEST_ID_HEADER,
    Forwarder,
    client_of,
)
from orca_master.http.matching import RouteTable
from orca_master.http.meters import HttpMeters
from orca_master.http.parse import parse_body, parse_query
from orca_master.http.rates import Rates
from orca_master.http.route import Call, Caller, Open, Reply, Route, Served, Text
from orca_master.http.sending import LAST, Answer, end, send
from orca_master.http.streams import Events, stream
from orca_master.state.log import LogFailed

BACKLOG = 1024
"""Connections that the system keeps until they are accepted."""
ACCEPTED_AT_ONCE = 16
"""In one turn of the loop, which takes as many as it is told to keep: a thousand would stop it."""
HANDSHAKE_SECONDS = 10.0
LINGERING_SECONDS = 2.0
"""How long more of a body is read that was refused before its end, so that the refusal arrives."""
REVOKED_SECONDS = 1.0
"""How often it is looked whether the token of a stream still works."""
SHUTDOWN_SECONDS = 5.0
PATIENCE_SECONDS = 3.0
"""How long a request waits for somebody to lead: an election takes less."""
BETWEEN_TRIES_SECONDS = 0.05
AGE_HEADER = "X-Orca-Age-Seconds"

log = get_logger("http")

_encoder = msgspec.json.Encoder()


class HttpServer:
    """Serves the routes. Raises ValueError for a table of them that is none (`RouteTable`).

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
        rates: Rates | None = None,
        access: AccessLog | None = None,
        peer_of: Callable[[web.BaseRequest], str] | None = None,
    ) -> None:
        self._env = env
        self._authenticate = authenticate
        self._age = age
        self._forwarder = forwarder
        self._meters = meters
        self._rates = rates or Rates(env)
        self._access = access or AccessLog()
        self._peer_of = peer_of

        self._routes = RouteTable(
            route for route in routes if route.permission is not Open.MASTERS or peer_of is not None
        )
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None
        self._doorman = Doorman(self._protocol)
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        await self.prepare()
        self._listening = await asyncio.get_running_loop().create_server(
            self._doorman.accept,
            host,
            port,
            backlog=ACCEPTED_AT_ONCE,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_SECONDS,
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
        asked = Asked(request, told.get(REQUEST_ID_HEADER) or self._env.new_id(), self._env.now())
        started, transport = self._env.monotonic(), request.transport
        if request.version < HttpVersion10:  # an answer would be none that its client knows
            log.debug("request of HTTP/0.9 closed", path=request.path)
            return LAST
        self._doorman.arrived(transport)
        try:
            answer = await self._answer_or_refuse(asked)
            if isinstance(answer, Answer):
                answer.headers[REQUEST_ID_HEADER] = asked.id
                response = await send(request, answer, now=asked.at)
            else:
                await end(request, answer)
                response = answer
        except ConnectionError as error:
            log.debug("request broken off", path=request.path, reason=str(error))
            return LAST
        self._doorman.answered(transport)
        seconds = self._env.monotonic() - started
        if self._meters is not None:
            self._meters.observe(asked.route, answer.status, seconds)
        client = told.get(CLIENT_HEADER) or client_of(request)
        self._access.note(asked, answer.status, seconds, client)
        return response

    async def _answer_or_refuse(self, asked: Asked) -> Answer | web.StreamResponse:
        request = asked.request
        try:
            route, asked.parts = self._routes.find(request.method, request.rel_url.path_safe)
            asked.route = route
            route.dialect.check_accept(request.headers.get("Accept", ""))
            await asked.read(route)
            stale = asked.wants_stale(route)
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
            return _error(fault, asked)

    def _refused(self, asked: Asked, error: OrcaError) -> Answer:
        answer = _error(error, asked)
        if self._peer_of is not None:
            answer.headers[ERROR_HEADER] = error.code
        return answer

    async def _through_leader(
        self, forwarder: Forwarder, route: Route, asked: Asked
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
        self, route: Route, asked: Asked, *, stale: bool
    ) -> Answer | web.StreamResponse:
        caller = asked.caller = self._authorise(route, asked)
        counted = self._count(route, asked)
        call = Call(
            path=asked.names(),
            query=parse_query(route.query, asked.query_text(route)),
            body=parse_body(route.body, asked.body),
            caller=caller,
            stale=stale,
            once=asked.once(route, caller),
            resume_after=asked.request.headers.get("Last-Event-ID") if route.is_stream else None,
            peer=self._peer_of(asked.request) if self._peer_of is not None else None,
            raw=asked.raw(self._client(asked)) if route.takes_raw else None,
        )
        age = self._age()
        result = await route.handle(call)
        if isinstance(result, Text | Events):
            until_revoked = partial(self._until_revoked, route, asked)
            headers = {REQUEST_ID_HEADER: asked.id, "Server": "orca", **counted}
            return await stream(asked.request, result, headers, until_revoked)
        reply = result if isinstance(result, Reply) else Reply(result)
        answer = self._rendered(route.dialect, reply, asked)
        answer.headers.update(counted)
        if stale:
            answer.headers[AGE_HEADER] = f"{age:.3f}"
        return answer

    def _rendered(self, dialect: Dialect, reply: Reply, asked: Asked) -> Answer:
        if dialect.is_bare:
            return _json(reply.value, reply.status)
        answer = _json(dialect.success(reply.value, asked.exchange), reply.status)
        answer.headers.update(dialect.headers(reply.value, asked.exchange))
        return answer

    def _count(self, route: Route, asked: Asked) -> dict[str, str]:
        """Raises RateLimited."""
        if route.rate is None:
            return {}
        caller = asked.caller
        who = self._client(asked) if caller is None else f"{caller.tenant}/{caller.name}"
        return self._rates.count(route.rate, who)

    def _client(self, asked: Asked) -> str:
        """The address that a request came from, also through another master."""
        told = asked.request.headers.get(CLIENT_HEADER) if self._peer_of else None
        return (told or client_of(asked.request)).rpartition(":")[0]

    async def _until_revoked(self, route: Route, asked: Asked) -> None:
        """Raises Unauthenticated or Forbidden."""
        while True:
            await asyncio.sleep(REVOKED_SECONDS)
            self._authorise(route, asked)

    def _authorise(self, route: Route, asked: Asked) -> Caller | None:
        if isinstance(route.permission, Open):
            return None
        caller = self._authenticate(asked.authorization(route))
        if not caller.may(route.permission):
            raise Forbidden(f"this token lacks the permission {route.permission}")
        return caller


def _error(error: OrcaError, asked: Asked) -> Answer:
    """In the form of the path's family."""
    dialect = asked.route.dialect if asked.route is not None else for_path(asked.request.path)
    answer = _json(dialect.error(error, asked.exchange), dialect.status(type(error)))
    answer.headers.update(error.headers)
    return answer


def _json(value: object, status: int) -> Answer:
    body = _encoder.encode(value) + b"\n"
    return Answer(status, body, {"Content-Type": "application/json; charset=utf-8"})
