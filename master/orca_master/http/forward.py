"""Requests that only the leader can answer, passed on to it: bodies, streams and all.

A follower never changes what it passes on, except that it adds who the client is and the request's
id. What is known to have changed nothing is tried again with whoever leads then; what may have been
done is answered with 504, and an `Idempotency-Key` makes asking again exact.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import aiohttp
from aiohttp import web

from orca_master.errors import NotFound, NotLeader, NotReady, OutcomeUnknown
from orca_master.http.sending import write

CLIENT_HEADER = "X-Orca-Client"
ERROR_HEADER = "X-Orca-Error"
REQUEST_ID_HEADER = "X-Request-Id"
ALPN = "http/1.1"
CONNECT_SECONDS = 1.0
ALIVE_PATH = "/api/v1/health"
ALIVE_SECONDS = 1.0
LOOK_EVERY_SECONDS = 0.5
MAX_CONNECTIONS = 512
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_OF_ONE_HOP = frozenset(
    ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host")
)

_SAID_ANEW = ("content-length", REQUEST_ID_HEADER.lower())


class Leading(Protocol):
    """Who leads, as far as this master knows."""

    async def leader(self, seconds: float) -> str | None:
        """None: this master leads. Else the leader's `host:port` on the port between masters.

        Waits up to so long for somebody to lead. Raises NotLeader.
        """
        ...

    def address(self) -> str | None:
        """Of the leader, as far as it is known now; None: this master, or nobody."""
        ...


class Forwarder:
    """Keep `run` running while requests are passed on.

    `server_name` is what every certificate of a master carries. `tls` gives the context for a request;
    connections are kept for requests that are given the same one.
    """

    def __init__(
        self, leading: Leading, tls: Callable[[], ssl.SSLContext], *, server_name: str
    ) -> None:
        self.leading = leading
        self._tls = tls
        self._server_name = server_name
        self._session: aiohttp.ClientSession | None = None
        self._waiting: dict[asyncio.Timeout, str] = {}

    async def run(self) -> None:
        """Requests that wait for a master which neither leads nor lives are given up, until cancelled.

        One that lives answers: it still knows what became of what it began.
        """
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            for address in set(self._waiting.values()) - {self.leading.address()}:
                if not await self._lives(address):
                    for scope, waits_for in self._waiting.items():
                        if waits_for == address and not scope.expired():
                            scope.reschedule(asyncio.get_running_loop().time())

    async def _lives(self, address: str) -> bool:
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                async with self._client().get(
                    f"https://{address}{ALIVE_PATH}",
                    ssl=self._context(),
                    server_hostname=self._server_name,
                ) as answer:
                    return answer.status < 500
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def pass_on(
        self, address: str, request: web.BaseRequest, body: bytes, *, request_id: str
    ) -> web.StreamResponse:
        """The leader's answer. Raises NotLeader (nothing was done) and OutcomeUnknown."""
        headers = [
            (name, value)
            for name, value in _end_to_end(request.headers.items())
            if not name.lower().startswith("x-orca-") and name.lower() not in _SAID_ANEW
        ]
        headers += [(CLIENT_HEADER, client_of(request)), (REQUEST_ID_HEADER, request_id)]
        answer = await self._ask(request.method, address, request.raw_path, headers, body)
        async with answer:
            if answer.headers.get(ERROR_HEADER) == NotLeader.code:
                raise NotLeader("the master that was asked has lost its leadership")
            return await _copy(answer, request)

    async def ask(
        self, address: str, method: str, path: str, body: bytes = b""
    ) -> tuple[int, bytes]:
        """A request of this master's own: status and body. Raises NotLeader and OutcomeUnknown."""
        headers = [("Content-Type", "application/json")] if body else []
        answer = await self._ask(method, address, path, headers, body)
        async with answer:
            return answer.status, await answer.read()

    async def stream(self, address: str, path: str) -> AsyncIterator[bytes]:
        """What another master answers, as it comes. Raises NotFound, NotReady, OSError."""
        try:
            answer = await self._ask("GET", address, path, (), b"")
            async with answer:
                if answer.status == 404:
                    raise NotFound("on another master", path)
                if answer.status != 200:
                    raise NotReady(f"{address} answered {answer.status}")
                async for chunk in answer.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, NotLeader) as error:
            raise OSError(f"{address} cannot be read from: {error}") from error

    async def _ask(
        self,
        method: str,
        address: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
    ) -> aiohttp.ClientResponse:
        nothing_done = f"the leader at {address} cannot be reached; nothing was changed"
        try:
            with self._given_up_when_lost(address) as scope:
                async with scope:
                    return await self._client().request(
                        method,
                        f"https://{address}{target}",
                        headers=list(headers),
                        data=body or None,
                        allow_redirects=False,
                        ssl=self._context(),
                        server_hostname=self._server_name,
                    )
        except aiohttp.ClientConnectorError as error:
            raise NotLeader(nothing_done) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if method in SAFE_METHODS:
                raise NotLeader(nothing_done) from error
            raise OutcomeUnknown(
                "the leader was lost before it answered; look, then ask again"
                " (with an Idempotency-Key asking again is safe)"
            ) from error

    @contextmanager
    def _given_up_when_lost(self, address: str) -> Iterator[asyncio.Timeout]:
        scope = asyncio.timeout(None)
        self._waiting[scope] = address
        try:
            yield scope
        finally:
            del self._waiting[scope]

    def _context(self) -> ssl.SSLContext:
        tls = self._tls()
        tls.set_alpn_protocols([ALPN])
        return tls

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def client_of(request: web.BaseRequest) -> str:
    """The address that the client connected from."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return f"{peer[0]}:{peer[1]}" if peer else "unknown"


def _end_to_end(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in headers if name.lower() not in _OF_ONE_HOP)


async def _copy(answer: aiohttp.ClientResponse, request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in _end_to_end(answer.headers.items()):
        response.headers.add(name, value)
    response.headers.setdefault("Server", "orca")
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await write(request, response, chunk)
    except aiohttp.ClientError as error:
        # The status has left: only a connection that breaks tells the client that this is not all.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionError("the leader was lost while it answered") from error
    return response
