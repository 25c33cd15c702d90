"""Events as they happen, over WebSocket, server-sent events and lines of JSON. FAULTS HT-27 is here."""

import asyncio
import base64
import json
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from inprocess import InProcess
from orca_master.http import streams

PATH = "/api/v1/audit/stream"
SECONDS = 60.0


async def note(cluster: InProcess, name: str) -> None:
    """Something that happens."""
    body = {"services": [{"name": name, "image": "app:1", "replicas": 0}]}
    answer = await cluster.call("POST", "/api/v1/deploy?wait=false", body)
    assert answer.status == 202


def bearer(cluster: InProcess) -> dict[str, str]:
    return {"Authorization": f"Bearer {cluster.token}"}


@asynccontextmanager
async def lines(
    cluster: InProcess, path: str = PATH, **headers: str
) -> AsyncIterator[aiohttp.StreamReader]:
    told = bearer(cluster) | headers
    async with asyncio.timeout(SECONDS), cluster.client.get(path, headers=told) as response:
        assert response.status == 200, await response.text()
        yield response.content


async def test_lines_of_json_come_as_it_happens(cluster: InProcess) -> None:
    await note(cluster, "before")
    async with lines(cluster) as stream:
        await note(cluster, "a")
        await note(cluster, "b")
        found = [json.loads(await stream.readline()) for _ in range(2)]
    assert [event["resource"] for event in found] == ["services/default/a", "services/default/b"]
    trail = (await cluster.call("GET", "/api/v1/audit?limit=2")).json["events"]
    assert found == trail[::-1], "as the trail tells it"


async def test_a_reader_that_comes_again_misses_nothing(cluster: InProcess) -> None:
    async with lines(cluster) as stream:
        await note(cluster, "a")
        seen = json.loads(await stream.readline())["id"]
    for name in "bcd":
        await note(cluster, name)
    async with lines(cluster, f"{PATH}?after={seen}") as stream:
        found = [json.loads(await stream.readline())["resource"][-1] for _ in range(3)]
    assert found == ["b", "c", "d"]
    async with lines(cluster, f"{PATH}?after={seen}&resource=services/default/c") as stream:
        assert json.loads(await stream.readline())["resource"] == "services/default/c"


async def test_server_sent_events_have_ids_to_come_again_with(cluster: InProcess) -> None:
    accept = {"Accept": "text/event-stream"}
    async with lines(cluster, **accept) as stream:
        await note(cluster, "a")
        event = (await stream.readuntil(b"\n\n")).decode().splitlines()
    assert json.loads(event[0].removeprefix("data: "))["resource"] == "services/default/a"
    last = event[1].removeprefix("id: ")
    await note(cluster, "b")
    async with lines(cluster, **accept, **{"Last-Event-ID": last}) as stream:
        assert b"default/b" in await stream.readuntil(b"\n\n")


async def test_a_silent_stream_shows_that_it_lives(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "COMMENT_SECONDS", 0.05)
    async with lines(cluster, Accept="text/event-stream") as stream:
        assert await stream.readuntil(b"\n\n") == b":\n\n"


@pytest.mark.parametrize("after", ["x", "1", "1.2.3", "99999999999999999999.1", "-1.1"])
async def test_a_place_that_is_none_is_refused(cluster: InProcess, after: str) -> None:
    answer = await cluster.call("GET", f"{PATH}?after={after}")
    assert answer.status == 400
    assert answer.json["problems"][0]["field"] == "query.after"
    answer = await cluster.call("GET", PATH, headers={"Last-Event-ID": after})
    assert answer.status == 400


# WebSockets.


@pytest.mark.parametrize("way", ["header", "query", "protocol"])
async def test_a_websocket_takes_the_token_in_three_ways(cluster: InProcess, way: str) -> None:
    options: dict[str, Any] = {
        "header": {"headers": bearer(cluster)},
        "query": {"params": {"token": cluster.token}},
        "protocol": {"protocols": ("orca", f"orca.token.{cluster.token}")},
    }[way]
    async with asyncio.timeout(SECONDS), cluster.client.ws_connect(PATH, **options) as socket:
        assert socket.protocol == ("orca" if way == "protocol" else None)
        await note(cluster, "a")
        assert (await socket.receive_json())["resource"] == "services/default/a"
        await socket.ping(b"x")
        await socket.close()
    assert socket.close_code == 1000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"headers": {"Authorization": "Bearer orca_wrong"}},
        {"params": {"token": "orca_wrong"}},
        {"protocols": ("orca", "orca.token.wrong")},
        {"params": [("token", "a"), ("token", "b")]},
    ],
)
async def test_a_wrong_token_is_a_401_before_the_upgrade_ht_27(
    cluster: InProcess, options: dict[str, Any]
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await cluster.client.ws_connect(PATH, **options)
    assert refused.value.status == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1.evil"])
async def test_a_page_of_another_site_is_refused_ht_27(cluster: InProcess, origin: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await cluster.client.ws_connect(PATH, headers=bearer(cluster) | {"Origin": origin})
    assert refused.value.status == 403
    own = bearer(cluster) | {"Origin": cluster.api}
    async with cluster.client.ws_connect(PATH, headers=own) as socket:
        assert not socket.closed


class Raw:
    """A WebSocket by hand, for frames that no library sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, opcode: int, payload: bytes, *, masked: bool = True) -> None:
        size = len(payload)
        bit = 0x80 if masked else 0
        if size < 126:
            length = struct.pack("!B", bit | size)
        elif size < 1 << 16:
            length = struct.pack("!BH", bit | 126, size)
        else:
            length = struct.pack("!BQ", bit | 127, size)
        mask = b"\0\0\0\0" if masked else b""
        self.writer.write(bytes([0x80 | opcode]) + length + mask + payload)

    async def close_code(self) -> int | None:
        """The code of the close frame that comes; None: the connection ended without one."""
        async with asyncio.timeout(SECONDS):
            try:
                while True:
                    first, size = await self.reader.readexactly(2)
                    payload = await self.reader.readexactly(size)
                    if first & 0xF == 8:
                        return int(struct.unpack_from("!H", payload)[0])
            except (asyncio.IncompleteReadError, ConnectionError):
                return None


@asynccontextmanager
async def raw_socket(cluster: InProcess) -> AsyncIterator[Raw]:
    parts = urlsplit(cluster.api)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {cluster.token}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


async def test_a_message_that_is_too_large_closes_with_1009_ht_27(cluster: InProcess) -> None:
    async with raw_socket(cluster) as socket:
        socket.send(1, b"x" * ((64 << 10) + 1))
        assert await socket.close_code() == 1009


async def test_a_frame_without_a_mask_closes_with_1002_ht_27(cluster: InProcess) -> None:
    async with raw_socket(cluster) as socket:
        socket.send(1, b"x", masked=False)
        assert await socket.close_code() == 1002


async def test_a_flood_of_pings_is_closed_ht_27(cluster: InProcess) -> None:
    async with raw_socket(cluster) as socket:
        for _ in range(1000):
            socket.send(9, b"x")
        assert await socket.close_code() == 1008
    async with raw_socket(cluster) as socket:
        for _ in range(5):
            socket.send(9, b"x")
        await note(cluster, "a")
        async with asyncio.timeout(SECONDS):
            await socket.reader.readuntil(b"default/a")


async def test_a_revoked_token_closes_with_4401_az_11(cluster: InProcess) -> None:
    body = {"name": "short", "role": "admin"}
    token = (await cluster.call("POST", "/api/v1/tokens", body)).json["token"]
    headers = {"Authorization": f"Bearer {token}"}
    async with asyncio.timeout(SECONDS), cluster.client.ws_connect(PATH, headers=headers) as socket:
        assert (await cluster.call("DELETE", "/api/v1/tokens/short")).status == 200
        while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert (message.type, socket.close_code) == (aiohttp.WSMsgType.CLOSE, 4401)
        assert "invalid token" in message.extra
