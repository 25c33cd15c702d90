"""Health checks and the joining worker's requests, against servers on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine import free_port
from orca_proto import worker_pb2 as pb
from orca_worker import http
from orca_worker.prober import HttpProber


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers everything with these bytes, or (None) never; its port and requests."""
    requests: list[bytes] = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await done.wait()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        done.set()
        server.close()
        await server.wait_closed()


async def check(port: int, *, seconds: float = 5.0) -> str | None:
    wanted = pb.HealthCheck(path="/healthz?deep=1", timeout_seconds=seconds)
    return await HttpProber().check(wanted, port)


@pytest.mark.parametrize("status", [200, 204, 301, 399])
async def test_a_status_below_400_is_healthy(status: int) -> None:
    async with answering(b"HTTP/1.1 %d Fine\r\nContent-Length: 2\r\n\r\nok" % status) as (
        port,
        got,
    ):
        assert await check(port) is None
    assert got[0].startswith(b"GET /healthz?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_an_error_status_is_named(status: int) -> None:
    async with answering(b"HTTP/1.0 %d\r\n\r\n" % status) as (port, _):
        assert await check(port) == f"answered {status}"


async def test_statuses_before_the_answer_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with answering(early + b"HTTP/1.1 503 No\r\n\r\n") as (port, _):
        assert await check(port) == "answered 503"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "it closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n", "its answer is no HTTP"),
        (b"x" * 200_000, "its answer is no HTTP"),
    ],
)
async def test_what_is_no_http_is_said_so(answer: bytes, words: str) -> None:
    async with answering(answer) as (port, _):
        assert await check(port) == words


async def test_a_silent_server_and_a_closed_port_read_differently() -> None:
    async with answering(None) as (port, _):
        assert await check(port, seconds=0.1) == "no answer within 0.1 s"
    assert await check(free_port()) == "nothing listens on its port"


async def test_a_request_gives_status_and_body_whatever_their_framing() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    async with answering(chunked) as (port, _):
        assert await http.request("GET", f"http://127.0.0.1:{port}/x") == (200, b"{}")
    async with answering(b"HTTP/1.1 409 No\r\nContent-Length: 1\r\n\r\n0") as (port, got):
        assert await http.request("POST", f"http://127.0.0.1:{port}", body=b"{}") == (409, b"0")
    assert b"Content-Length: 2\r\n" in got[0]


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="such as http"):
        await http.request("GET", "127.0.0.1:6880/x")
    async with answering(b"hello") as (port, _):
        with pytest.raises(http.NotHttp):
            await http.request("GET", f"http://127.0.0.1:{port}/x")
