"""Events as they come, in the form that the client asks for: one source, three forms.

    Upgrade: websocket            a JSON object in each text message          (RFC 6455)
    Accept: text/event-stream     server-sent events; a reader that comes again with
                                  `Last-Event-ID` goes on where it was        (HTML, section 9.2)
    anything else                 a JSON object on each line                  (NDJSON)

Nothing is gathered for a client that reads slowly: the source is asked for the next event when the
last has been taken, and who takes nothing for `sending.READ_SECONDS` is given up. What a source
had to leave out meanwhile it says itself, as a `Gap`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from urllib.parse import urlsplit

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from orca_common.cancelling import Work, until_one_ends
from orca_master.errors import Forbidden, Refusal, UpgradeRequired
from orca_master.http import sending
from orca_master.http.frames import MaskedFrames
from orca_master.http.route import Text

MAX_MESSAGE_BYTES = 64 << 10
HEARTBEAT_SECONDS = 30.0
COMMENT_SECONDS = 15.0
"""How often a silent stream of server-sent events shows that it is alive: proxies close silent ones."""
MOST_MESSAGES = 20
"""That a client may send in a second, pings among them."""
CLOSE_REVOKED = 4401
PROTOCOL = "orca"

_encoder = msgspec.json.Encoder()


class Form(Enum):
    WEBSOCKET = "websocket"
    SSE = "text/event-stream"
    NDJSON = "application/x-ndjson"


ALL = frozenset(Form)


@dataclass(frozen=True, slots=True)
class Event:
    """`data` is JSON. `id`: what to come again with; `kind`: its name in server-sent events."""

    data: object
    id: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """So many events were left out here, because the reader was too slow."""

    missed: int


Item = Event | Gap


@dataclass(frozen=True, slots=True)
class Events:
    """What a handler returns to stream events. `forms`: which ones are spoken on this route."""

    source: AsyncIterator[Item]
    forms: frozenset[Form] = ALL


def form_of(request: web.BaseRequest, forms: frozenset[Form]) -> Form:
    """Raises UpgradeRequired, and Forbidden for a page of another site."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        check_origin(request)
        return Form.WEBSOCKET
    told = forms & {Form.SSE, Form.NDJSON}
    if Form.SSE in told and (len(told) == 1 or Form.SSE.value in request.headers.get("Accept", "")):
        return Form.SSE
    if told:
        return Form.NDJSON
    raise UpgradeRequired("this is a WebSocket: ask for it with the header Upgrade: websocket")


def check_origin(request: web.BaseRequest) -> None:
    """A browser sends its user's rights along to any site; so a page of another site is refused."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
        raise Forbidden(f"a page of another site may not open this: {origin[:200]!a}")


async def stream(
    request: web.BaseRequest,
    result: Events | Text,
    headers: dict[str, str],
    until_revoked: Work,
) -> web.StreamResponse:
    """Send until the source ends, the client goes, or `until_revoked` raises a Refusal.

    Raises ConnectionError for a stream that was broken off, which is how its reader learns of it.
    """
    try:
        if isinstance(result, Text):
            return await _text(request, result, headers, until_revoked)
        form = form_of(request, result.forms)
        if form is Form.WEBSOCKET:
            return await _websocket(request, result, headers, until_revoked)
        return await _events(request, result, form, headers, until_revoked)
    finally:
        source = result.parts if isinstance(result, Text) else result.source
        if isinstance(source, AsyncGenerator):
            await source.aclose()


async def _text(
    request: web.BaseRequest, text: Text, headers: dict[str, str], until_revoked: Work
) -> web.StreamResponse:
    first = await anext(text.parts, b"")
    told = {**headers, **text.headers, "Content-Type": text.content_type}
    response = web.StreamResponse(headers=told)
    await response.prepare(request)

    async def send() -> None:
        await sending.write(request, response, first)
        async for part in text.parts:
            await sending.write(request, response, part)

    await _until_one_ends(request, send, until_revoked)
    return response


async def _events(
    request: web.BaseRequest,
    events: Events,
    form: Form,
    headers: dict[str, str],
    until_revoked: Work,
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={**headers, "Content-Type": form.value, "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    encode = _as_sse if form is Form.SSE else _as_line

    async def send() -> None:
        async for item in events.source:
            await sending.write(request, response, encode(item))

    async def comment() -> None:
        while True:
            await asyncio.sleep(COMMENT_SECONDS)
            await sending.write(request, response, b":\n\n")

    works = [until_revoked, *([comment] if form is Form.SSE else [])]
    await _until_one_ends(request, send, *works)
    return response


async def _until_one_ends(request: web.BaseRequest, send: Work, *others: Work) -> None:
    try:
        await until_one_ends(send, *others)
    except Refusal as refusal:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionError(f"broken off while it was answered: {refusal}") from refusal


async def _websocket(
    request: web.BaseRequest, events: Events, headers: dict[str, str], until_revoked: Work
) -> web.StreamResponse:
    socket = web.WebSocketResponse(
        protocols=(PROTOCOL,),
        max_msg_size=MAX_MESSAGE_BYTES,
        heartbeat=HEARTBEAT_SECONDS,
        autoping=False,
        compress=False,
    )
    socket.headers.update(headers)
    await socket.prepare(request)
    protocol, reader = request.protocol, socket._reader
    assert reader is not None, "it is prepared"
    protocol._payload_parser = MaskedFrames(protocol._payload_parser, reader.set_exception)

    async def send() -> None:
        async for item in events.source:
            text = _encoder.encode(_shown(item)).decode()
            await sending.in_time(request, socket.send_str(text))

    try:
        await until_one_ends(send, partial(_listen, socket), until_revoked)
    except Refusal as error:
        await socket.close(code=CLOSE_REVOKED, message=error.message.encode()[:120])
    except asyncio.CancelledError:
        await socket.close(code=WSCloseCode.GOING_AWAY)
        raise
    await socket.close()
    return socket


async def _listen(socket: web.WebSocketResponse) -> None:
    """Until the client closes. Nothing is expected of it, and little of that is put up with."""
    loop = asyncio.get_running_loop()
    second, heard = 0.0, 0
    while True:
        message = await socket.receive()
        if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
            return
        if message.type is WSMsgType.PING:
            await socket.pong(message.data)
        if loop.time() >= second + 1.0:
            second, heard = loop.time(), 0
        heard += 1
        if heard > MOST_MESSAGES:
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many messages")
            return


def _shown(item: Item) -> object:
    return {"type": "gap", "missed": item.missed} if isinstance(item, Gap) else item.data


def _as_line(item: Item) -> bytes:
    return _encoder.encode(_shown(item)) + b"\n"


def _as_sse(item: Item) -> bytes:
    lines = [b"data: " + _encoder.encode(_shown(item))]
    if isinstance(item, Gap):
        lines.append(b"event: gap")
    else:
        if item.kind:
            lines.append(b"event: " + item.kind.encode())
        if item.id:
            lines.append(b"id: " + item.id.encode())
    return b"\n".join(lines) + b"\n\n"
