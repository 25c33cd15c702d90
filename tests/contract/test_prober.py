"""Probes and the joining worker's requests, against servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from engine import free_port
from orca_proto import worker_pb2 as pb
from orca_worker import http
from orca_worker.prober import NetworkProber


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
    wanted = pb.Probe(path="/healthz?deep=1", timeout_seconds=seconds)
    return await NetworkProber().check(wanted, "127.0.0.1", port)


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


async def ask(port: int, *, seconds: float = 60.0, **fields: Any) -> str | None:
    probe = pb.Probe(port=port, timeout_seconds=seconds, **fields)
    return await NetworkProber().check(probe, "127.0.0.1", port)


async def test_headers_are_sent_and_host_takes_the_place_of_the_address() -> None:
    async with answering(b"HTTP/1.1 200 Fine\r\n\r\n") as (port, got):
        assert await ask(port, path="/", headers={"host": "app.example.com", "X-Key": "v"}) is None
    lines = got[0].decode().split("\r\n")
    assert [line for line in lines if line.lower().startswith("host:")] == ["Host: app.example.com"]
    assert "X-Key: v" in lines


@pytest.mark.parametrize("then", ["body", "drip", "headers"])
async def test_an_answer_without_end_is_taken_at_its_first_line(then: str) -> None:
    """What a hostile program sends after its status costs neither time nor memory."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 Fine\r\n" + (b"" if then == "headers" else b"\r\n"))
        piece = b"X-Long: " + b"x" * 60_000 + b"\r\n" if then != "drip" else b"."
        with suppress(OSError):
            while sent < 1 << 30:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
                await asyncio.sleep(0.01 if then == "drip" else 0)
        writer.close()

    async with served(serve) as port:
        assert await ask(port, path="/") is None
    assert sent < 1 << 28


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 2", b"HTTP/1.1 103 Early\r\n\r\n" * 3])
async def test_a_slow_drip_ends_with_the_timeout(start: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        with suppress(OSError):
            while not writer.is_closing():
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.01)

    async with served(serve) as port:
        assert await ask(port, path="/", seconds=0.5) == "no answer within 0.5 s"


async def test_a_redirect_to_elsewhere_is_an_answer_and_not_followed() -> None:
    async with answering(b"HTTP/1.1 200 Fine\r\n\r\n") as (other, asked):
        target = b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:%d/secret\r\n\r\n" % other
        async with answering(target) as (port, _):
            assert await ask(port, path="/") is None
    assert asked == []


async def test_tcp_is_well_where_a_connection_is_taken() -> None:
    async with answering(None) as (port, _):
        assert await ask(port, tcp=True) is None
    assert await ask(free_port(), tcp=True) == "nothing listens on its port"


class Health:
    """The standard service, as a program has it. Its messages are told in bytes."""

    def __init__(self, **services: int) -> None:
        self.services = services

    async def check(self, request: bytes, context: Any) -> bytes:
        name = request[3 if len(request) > 129 else 2 :].decode()  # its length takes two bytes then
        if name not in self.services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        status = self.services[name]
        return b"\xff" if status == 9 else b"\x08" + bytes([status]) if status else b""


@asynccontextmanager
async def grpc_server(health: Health | None) -> AsyncIterator[int]:
    server = grpc.aio.server()
    if health is not None:
        method = grpc.unary_unary_rpc_method_handler(health.check)
        handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
        server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_grpc_asks_the_standard_health_service() -> None:
    long = "x" * 200
    health = Health(**{"": 1, "shop": 2, "odd": 0, "later": 3, long: 1, "mad": 9})
    async with grpc_server(health) as port:
        assert await ask(port, grpc=True) is None
        assert await ask(port, grpc=True, service=long) is None
        assert await ask(port, grpc=True, service="shop") == "answered NOT_SERVING"
        assert await ask(port, grpc=True, service="odd") == "answered UNKNOWN"
        assert await ask(port, grpc=True, service="later") == "answered SERVICE_UNKNOWN"
        said = await ask(port, grpc=True, service="mad")
        assert said == "its answer is no health status"
        said = await ask(port, grpc=True, service="else")
        assert said == "its health service does not know else"


async def test_grpc_that_is_not_there_says_how_to_succeed() -> None:
    async with grpc_server(None) as port:
        said = await ask(port, grpc=True)
        assert said == "it has no grpc.health.v1.Health: add the standard health service"
    nobody = "nothing that speaks gRPC answers on its port"
    assert await ask(free_port(), grpc=True) == nobody
    async with answering(b"HTTP/1.1 200 Fine\r\n\r\n") as (port, _):
        assert await ask(port, grpc=True) == nobody
    async with served(_silent) as port:
        assert await ask(port, grpc=True, seconds=0.5) == "no answer within 0.5 s"


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass
    writer.close()


@asynccontextmanager
async def served(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()
