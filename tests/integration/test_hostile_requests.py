"""What hostile clients send through the ingress: refused, or as harmless as anybody's."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from integration.conftest import RealCluster, running
from traffic import fetch

HOST = "app.example.com"
ECHO = """
import os, socket, threading
door = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=100)
lock, heads = threading.Lock(), []
def serve(line):
    file = line.makefile("rb")
    while True:
        head = b""
        while not head.endswith(b"\\r\\n\\r\\n"):
            part = file.readline()
            if not part:
                return
            head += part
        size = 0
        for row in head.split(b"\\r\\n"):
            name, _, value = row.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
            if name.lower() == b"transfer-encoding":
                while True:
                    chunk = int(file.readline().split(b";")[0], 16)
                    file.read(chunk + 2)
                    if not chunk:
                        break
        file.read(size)
        with lock:
            if b" /health " not in head:
                heads.append(head)
            body = b"\\0".join(heads) if b" /heads " in head else head
        line.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
while True:
    threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()
"""
"""Answers the head of the request as it came, and for /heads those of all."""


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    async with running(folder / "one", "process", workers=1) as cluster:
        await _deploy(cluster)
        yield cluster.ingress_port


async def _deploy(cluster: RealCluster) -> None:
    service = {
        "name": "echo",
        "command": [sys.executable, "-S", "-c", ECHO],
        "port": 8080,
        "health": "/health",
        "domain": HOST,
        "routes": ["/", "/limited"],
    }
    limited = service | {
        "name": "limited",
        "routes": ["/limited"],
        "ingress": {
            "max_body": "1000",
            "rate_limit": {"requests_per_second": 5},
            "strip_prefix": True,
        },
    }
    async with cluster.client() as client:
        answer = await client.deploy([service | {"routes": ["/"]}, limited])
        assert answer["errors"] == []
    async with asyncio.timeout(60):
        while (await _try(cluster.ingress_port))[0] != 200:
            await asyncio.sleep(0.05)


async def _try(port: int) -> tuple[int, str]:
    try:
        return await fetch(port, HOST)
    except (OSError, EOFError):
        return 0, ""


async def raw(port: int, request: bytes) -> bytes:
    """All that is answered, until the connection is closed or half a second is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(request)
        while True:
            async with asyncio.timeout(0.5):
                part = await reader.read(65536)
            if not part:
                break
            answer += part
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


SMUGGLED = {
    "both lengths": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 50\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 50\r\n\r\n",
    "a signed length": b"Content-Length: +0\r\n\r\n",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n",
    "a coding twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a coding with a tab": b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Content-Length : 0\r\n\r\n",
    "a NUL": b"X-A: b\x00c\r\n\r\n",
    "a bad chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "an underscore": b"Content_Length: 50\r\n\r\n",
}


@pytest.mark.parametrize("tail", SMUGGLED.values(), ids=SMUGGLED)
async def test_no_second_request_is_smuggled(port: int, tail: bytes) -> None:
    """Refused, and the line is closed: what hides behind it is never read as a request."""
    answer = await raw(port, _post(tail) + _hidden("smuggled"))
    assert len(statuses(answer)) == 1
    assert statuses(answer)[0] in (400, 501)
    _, heads = await fetch(port, HOST, path="/heads")
    assert "/smuggled" not in heads


@pytest.mark.parametrize(
    "tail",
    [b"X-A: b\r\n Content-Length: 50\r\n\r\n", b"X-A: b\rContent-Length: 50\r\n\r\n"],
    ids=["a folded header", "a bare carriage return"],
)
async def test_what_lines_up_headers_differently_is_one_line_for_the_service(
    port: int, tail: bytes
) -> None:
    """What comes behind is a request of its own for both, and each is answered."""
    answer = await raw(port, _post(tail) + _hidden("plain"))
    assert statuses(answer) == [200, 200]
    assert len(re.findall(rb"x-a: b ?Content-Length: 50\r\n", answer)) == 1
    assert answer.count(b"GET /plain HTTP/1.1") == 1
    assert answer.count(b"x-request-id: ") == 2


def _post(tail: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: app.example.com\r\n" + tail


def _hidden(name: str) -> bytes:
    return f"GET /{name} HTTP/1.1\r\nHost: app.example.com\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: app.example.com\r\nHost: other\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: app.example.com@other\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: app.example.com, other\r\n\r\n", 400),
        (b"GET http://other.example.com/ HTTP/1.1\r\nHost: app.example.com\r\n\r\n", 404),
        (b"GET /a%2fb HTTP/1.1\r\nHost: app.example.com\r\n\r\n", 400),
        (b"GET /a%5cb HTTP/1.1\r\nHost: app.example.com\r\n\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\nHost: app.example.com\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: app.example.com\r\n\r\n", 426),
        (b"GE\x00T / HTTP/1.1\r\nHost: app.example.com\r\n\r\n", 400),
        (b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: app.example.com\r\nX-A: " + b"b" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: app.example.com\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)  # fmt: skip
async def test_what_cannot_be_meant_is_refused(port: int, head: bytes, status: int) -> None:
    assert statuses(await raw(port, head)) == [status]


async def test_what_clients_say_of_themselves_is_not_believed(port: int) -> None:
    spoofed = (
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
        "X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Envoy-Retry-On: 5xx\r\n"
        "X-Envoy-Upstream-Rq-Timeout-Ms: 1\r\nX-Envoy-Internal: true\r\nX-Envoy-Anything: 1\r\n"
    )
    _, head = await fetch(port, HOST, headers=spoofed)
    assert "6.6.6.6" not in head
    assert "evil" not in head
    assert "x-envoy" not in head.lower()
    rows = dict(row.split(": ", 1) for row in head.lower().split("\r\n") if ": " in row)
    assert rows["x-forwarded-for"] == "127.0.0.1"
    assert rows["x-real-ip"] == "127.0.0.1"
    assert rows["x-forwarded-proto"] == "http"
    assert rows["x-forwarded-host"] == HOST
    assert rows["host"] == HOST


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/a/../b", "/b"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/a/./b", "/a/b"),
        ("/limited/../b", "/b"),
        ("/limited/x", "/x"),
        ("/limitedx", "/limitedx"),
    ],
)
async def test_paths_are_made_plain_before_they_are_routed(port: int, path: str, seen: str) -> None:
    status, head = await fetch(port, HOST, path=path)
    assert status == 200
    assert head.split()[1] == seen


async def test_slow_clients_are_let_go_and_disturb_nobody(port: int) -> None:
    """A hundred that never finish their headers: others are served meanwhile."""
    lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
    for _, writer in lines:
        writer.write(b"GET / HTTP/1.1\r\nHost: app.exa")
    assert (await fetch(port, HOST))[0] == 200
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(reader.read() for reader, _ in lines))
    assert all(b" 408 " in answer or not answer for answer in answers)
    for _, writer in lines:
        writer.close()


async def test_bodies_and_rates_have_limits(port: int) -> None:
    status, _ = await fetch(port, HOST, method="POST", path="/limited", body=b"x" * 1001)
    assert status == 413
    chunked = (
        b"POST /limited HTTP/1.1\r\nHost: app.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = await raw(port, chunked + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n0\r\n\r\n")
    assert statuses(answer) == [413]
    got = [(await fetch(port, HOST, path="/limited"))[0] for _ in range(40)]
    assert 429 in got
    assert (await fetch(port, HOST))[0] == 200  # of this route only
    async with asyncio.timeout(60):
        while (await fetch(port, HOST, method="POST", path="/limited", body=b"x" * 900))[0] != 200:
            await asyncio.sleep(0.2)


async def test_refusals_say_why_in_a_line(port: int) -> None:
    status, text = await fetch(port, "nobody.example.com")
    assert (status, text) == (404, "404 Not Found: no service is routed here\n")
