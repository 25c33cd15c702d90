"""A request on its way through the kit: what it is for, who sends it, and its body, read in time."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

import aiohttp
from aiohttp import web

from orca_master.errors import ExpectationFailed, Invalid, Problem, TooLarge, TooSlow
from orca_master.http.dialects import Exchange
from orca_master.http.forward import SAFE_METHODS
from orca_master.http.matching import Parts
from orca_master.http.names import is_name
from orca_master.http.once import OnceKey, once_key
from orca_master.http.parse import CONSISTENCY, query_values
from orca_master.http.route import Caller, Raw, Route, Served
from orca_master.http.strict import check_media_type
from orca_master.http.trace import HEADER as TRACE_HEADER
from orca_master.http.trace import trace_id

BODY_SECONDS = 20.0
KEY_HEADER = "Idempotency-Key"
NAMES = frozenset({"name", "project", "id"})
"""Parts of paths that have to be names."""
TOKEN_PARAMETER = "token"
TOKEN_PROTOCOL = "orca.token."
"""A page in a browser cannot set headers of a WebSocket, but name protocols."""


@dataclass(slots=True)
class Asked:
    """`at`: seconds since the epoch. `route` None: none was found (yet)."""

    request: web.BaseRequest
    id: str
    at: float
    route: Route | None = None
    parts: Parts = field(default_factory=dict)
    body: bytes = b""
    caller: Caller | None = None

    @property
    def trace_id(self) -> str:
        return trace_id(self.request.headers.get(TRACE_HEADER), self.id)

    @property
    def exchange(self) -> Exchange:
        path, _, query = self.request.raw_path.partition("?")
        return Exchange(self.id, self.trace_id, self.at, path, query)

    def query_text(self, route: Route) -> str:
        """As it came, encoded; without a token, which nobody after this has to know."""
        text = self.request.rel_url.raw_query_string
        if not route.is_stream or TOKEN_PARAMETER not in text:
            return text
        values = parse_qsl(text, keep_blank_values=True)
        return urlencode([(name, value) for name, value in values if name != TOKEN_PARAMETER])

    def authorization(self, route: Route) -> str | None:
        """The `Authorization` header; on a stream also `?token=` or a protocol `orca.token.…`."""
        headers = self.request.headers
        found = headers.get("Authorization")
        if found is not None or not route.is_stream:
            return found
        tokens = [
            value
            for name, value in parse_qsl(self.request.rel_url.raw_query_string)
            if name == TOKEN_PARAMETER
        ]
        protocols = [part.strip() for part in headers.get("Sec-WebSocket-Protocol", "").split(",")]
        tokens += [
            p.removeprefix(TOKEN_PROTOCOL) for p in protocols if p.startswith(TOKEN_PROTOCOL)
        ]
        return f"Bearer {tokens[0]}" if len(tokens) == 1 else None

    async def read(self, route: Route) -> None:
        """The body. Raises ExpectationFailed, TooSlow, TooLarge, Invalid, UnsupportedMediaType."""
        request = self.request
        if not request.body_exists:
            return
        if "Expect" in request.headers:
            await _go_on(request)
        try:
            async with asyncio.timeout(None if request.content.is_eof() else BODY_SECONDS):
                body = await _body(request.content, route.most_body_bytes)
        except TimeoutError as error:
            raise TooSlow(f"the body did not come within {BODY_SECONDS:g} s") from error
        except web.RequestPayloadError as error:
            raise Invalid([Problem("", f"the body cannot be read: {error}")]) from error
        if body and route.body is not None:
            check_media_type(request.headers.get("Content-Type"))
        self.body = body

    def raw(self, client: str) -> Raw:
        """As it came."""
        headers: dict[str, list[str]] = {}
        for name, value in self.request.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        return Raw(headers, self.body, client)

    def names(self) -> Mapping[str, str]:
        """The parts of the path that its template has names for. Raises Invalid."""
        parts = self.parts
        wrong = [part for part in parts if part in NAMES and not is_name(parts[part])]
        if wrong:
            raise Invalid([Problem(f"path.{part}", "is no name") for part in wrong])
        return parts

    def wants_stale(self, route: Route) -> bool:
        """Raises Invalid."""
        wanted = query_values(self.query_text(route)).get(CONSISTENCY, ["linearizable"])[0]
        if wanted == "linearizable":
            return False
        if wanted != "stale":
            raise Invalid([Problem("query.consistency", "must be linearizable or stale")])
        if route.served is Served.LEADER:
            raise Invalid([Problem("query.consistency", "stale is not possible here")])
        return True

    def once(self, route: Route, caller: Caller | None) -> OnceKey | None:
        """Raises Invalid."""
        request = self.request
        key = request.headers.get(KEY_HEADER)
        if key is None or request.method in SAFE_METHODS:
            return None
        if not route.takes_key or caller is None:
            raise Invalid([Problem(KEY_HEADER, "is not taken here: this request keeps no result")])
        return once_key(
            caller.tenant, key, method=request.method, target=request.raw_path, body=self.body
        )


async def _body(content: aiohttp.StreamReader, most: int) -> bytes:
    """A compressed one counts as what it inflates to. Raises TooLarge as soon as it is."""
    parts: list[bytes] = []
    size = 0
    while part := await content.readany():
        size += len(part)
        if size > most:
            raise TooLarge(f"a request body may have at most {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def _go_on(request: web.BaseRequest) -> None:
    """Whoever asks before he sends a body is told to. Raises ExpectationFailed."""
    if request.headers["Expect"].lower() != "100-continue":
        raise ExpectationFailed("the header Expect may be 100-continue, or left out")
    if request.transport is not None and not request.content.is_eof():
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
