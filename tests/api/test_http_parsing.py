"""What comes over the wire is read strictly, or refused in words: FAULTS group HT.

Requests are written by hand onto a socket, as no client library would let them out.
"""

import asyncio
import gzip
import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from inprocess import InProcess, eventually
from orca_master.http import asked, doorman, sending

DEPLOY = "/api/v1/deploy"


async def exchange(
    cluster: InProcess, raw: bytes, *, seconds: float = 60.0, end: bool = False
) -> tuple[int, str]:
    """(status, whole answer); status 0 when the connection was closed without one."""
    parts = urlsplit(cluster.api)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(raw)
        if end:
            writer.write_eof()
        async with asyncio.timeout(seconds):
            head = await reader.read(1 << 16)
        text = head.decode("latin-1")
        return (int(text.split()[1]) if text.startswith("HTTP/1.") else 0), text
    except ConnectionError:
        return 0, ""
    finally:
        writer.close()


def a_request(
    cluster: InProcess,
    body: bytes,
    *,
    method: str = "POST",
    path: str = DEPLOY,
    content_type: str = "application/json",
    headers: str = "",
) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cluster.token}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


def a_deploy(**fields: Any) -> bytes:
    return json.dumps({"services": [{"name": "web", "image": "app:1"} | fields]}).encode()


async def refused(cluster: InProcess, body: bytes, *words: str, **how: Any) -> None:
    status, text = await exchange(cluster, a_request(cluster, body, **how))
    assert status == 400, text
    for word in words:
        assert word in text
    assert cluster.core.store.state.count(tables()) == 0


def tables() -> Any:
    from orca_master.services.model import SERVICES

    return SERVICES


async def test_nesting_without_end_ht_01(cluster: InProcess) -> None:
    await refused(cluster, b"[" * 100_000, "nested too deeply")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_are_none_ht_03(cluster: InProcess, number: str) -> None:
    body = a_deploy(replicas=7).replace(b"7", number.encode())
    await refused(cluster, body, "is no number of JSON")


async def test_a_number_that_overflows_ht_04(cluster: InProcess) -> None:
    await refused(cluster, a_deploy(replicas=7).replace(b"7", b"1e400"), "1e400 is too large")


async def test_a_key_that_comes_twice_ht_05(cluster: InProcess) -> None:
    body = a_deploy().replace(b'"name": "web"', b'"name": "web", "name": "other"')
    await refused(cluster, body, "the key 'name' comes twice")


async def test_half_a_surrogate_pair_ht_06(cluster: InProcess) -> None:
    await refused(cluster, a_deploy(env={"A": "X"}).replace(b"X", rb"\ud800"), "surrogate")


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"services": "\xff"}', "application/json", 400),
        (a_deploy().decode().encode("utf-16"), "application/json", 400),
        (a_deploy(), "application/json; charset=bogus", 415),
        (a_deploy(), "application/json; charset=utf-16", 415),
        (b"", "application/json", 400),
    ],
    ids=["no UTF-8", "UTF-16", "unknown charset", "another charset", "empty"],
)
async def test_bytes_that_are_no_utf_8_ht_07(
    cluster: InProcess, body: bytes, content_type: str, status: int
) -> None:
    found, text = await exchange(cluster, a_request(cluster, body, content_type=content_type))
    assert found == status, text


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_another_content_type_ht_08(cluster: InProcess, content_type: str) -> None:
    status, text = await exchange(
        cluster, a_request(cluster, a_deploy(), content_type=content_type)
    )
    assert status == 415
    assert "Content-Type: application/json" in text


async def test_a_body_that_is_too_large_ht_09(cluster: InProcess) -> None:
    status, _ = await exchange(cluster, a_request(cluster, b" " * (2 << 20)))
    assert status == 413


async def test_a_body_that_inflates_ht_10(cluster: InProcess) -> None:
    bomb = gzip.compress(b" " * (200 << 20))
    memory = psutil.Process().memory_info()
    raw = a_request(cluster, bomb, headers="Content-Encoding: gzip\r\n")
    status, _ = await exchange(cluster, raw)
    assert status == 413
    assert psutil.Process().memory_info().rss - memory.rss < 60 << 20


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1",
        "Content-Length: +5",
        "Transfer-Encoding: xchunked",
    ],
)
async def test_a_length_that_can_be_read_in_two_ways_ht_11(
    cluster: InProcess, headers: str
) -> None:
    raw = f"POST {DEPLOY} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\nabcde".encode()
    status, text = await exchange(cluster, raw)
    assert status in (0, 400), text


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_240 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 40_000 + b"\r\n",
        b"GET /" + b"a" * 9_216 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["a long line", "many headers", "a long path"],
)
async def test_a_head_that_is_too_large_ht_14(cluster: InProcess, raw: bytes) -> None:
    status, text = await exchange(cluster, raw)
    assert status in (0, 400, 431), text[:200]


@pytest.mark.parametrize(
    "raw",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(range(256)),
        b"GET /\r\n\r\n",
    ],
    ids=["HTTP/2", "TLS", "binary", "HTTP/0.9"],
)
async def test_what_is_no_http_ht_16(cluster: InProcess, raw: bytes) -> None:
    status, text = await exchange(cluster, raw, end=True)
    assert status in (0, 400, 505), text[:200]
    assert (await cluster.call("GET", "/api/v1/health")).status == 200


async def test_http_0_9_gets_no_answer_ht_16(cluster: InProcess) -> None:
    """Also where its client waits: nothing else closes the connection."""
    assert await exchange(cluster, b"GET /api/v1/health\r\n\r\n") == (0, "")


@pytest.mark.parametrize("method", ["TRACE", "PUT", "PROPFIND"])
async def test_methods_that_are_not_taken_ht_17(cluster: InProcess, method: str) -> None:
    status, text = await exchange(cluster, a_request(cluster, b"", method=method))
    assert status == 405, text
    assert "\r\nAllow: POST" in text


@pytest.mark.parametrize(
    "name",
    ["%2e%2e%2f%2e%2e%2fetc", "a%00b", "a%0d%0ab", "%c0%af", "%252e%252e", "A", "a_b", "x" * 64],
)
async def test_names_in_paths_have_one_grammar_ht_18_ht_19(cluster: InProcess, name: str) -> None:
    path = f"/api/v1/services/{name}/logs"
    status, text = await exchange(cluster, a_request(cluster, b"", method="GET", path=path))
    assert status in (400, 404), text
    assert "Traceback" not in text
    if "%2f" not in name:
        assert status == 400, text


async def test_a_parameter_that_comes_twice(cluster: InProcess) -> None:
    path = "/api/v1/status?project=a&project=b"
    status, text = await exchange(cluster, a_request(cluster, b"", method="GET", path=path))
    assert (status, "is given twice" in text) == (400, True)


async def test_slow_heads_are_closed_and_others_are_served_meanwhile_ht_21(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorman, "HEAD_SECONDS", 1.0)
    parts = urlsplit(cluster.api)

    async def slow() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"GET /api/v1/health HTTP/1.1\r\n")
        try:
            while not reader.at_eof():
                writer.write(b"X: y\r\n")
                async with asyncio.timeout(0.2):
                    await reader.read(1)
        except TimeoutError:
            await until_closed(reader)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def until_closed(reader: asyncio.StreamReader) -> None:
        try:
            while await reader.read(1 << 10):
                pass
        except ConnectionError:
            pass

    closings = asyncio.gather(*(slow() for _ in range(100)))
    assert (await cluster.call("GET", "/api/v1/health")).status == 200
    async with asyncio.timeout(60):
        await closings


async def test_a_slow_body_is_a_408_ht_22(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "BODY_SECONDS", 0.3)
    raw = a_request(cluster, a_deploy())[:-10]
    status, text = await exchange(cluster, raw)
    assert (status, "did not come within" in text) == (408, True)


async def test_a_client_that_reads_nothing_is_given_up_ht_23(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "READ_SECONDS", 0.3)
    await cluster.deploy({"name": "web"})
    for thing in cluster.worker.machine.things.values():
        thing.output.append((0.0, (b"x" * 1000 + b"\n") * 20_000))
    parts = urlsplit(cluster.api)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 10)
    path = "/api/v1/services/web/logs?tail=100000"
    writer.write(a_request(cluster, b"", method="GET", path=path))
    received = len(await reader.read(1))
    await asyncio.sleep(2.0)  # reads nothing, for longer than is waited for it
    async with asyncio.timeout(60):
        try:
            while part := await reader.read(1 << 20):
                received += len(part)
        except ConnectionError:
            pass
    assert received < 15 << 20, "what the kernel held has come, and then the end"
    writer.close()
    assert (await cluster.call("GET", "/api/v1/health")).status == 200


async def test_pipelined_requests_are_served_in_order_ht_24(cluster: InProcess) -> None:
    one = a_request(cluster, b"", method="GET", path="/api/v1/health")
    parts = urlsplit(cluster.api)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(one * 200)
    found = 0
    async with asyncio.timeout(60):
        while found < 200:
            found += (await reader.readuntil(b'"ok"}\n')).count(b"HTTP/1.1 200")
    writer.close()


async def test_an_expectation_that_is_none_ht_26(cluster: InProcess) -> None:
    raw = a_request(cluster, a_deploy(), headers="Expect: bogus\r\n")
    assert (await exchange(cluster, raw))[0] == 417


async def test_a_fault_of_ours_is_a_500_once_and_names_itself_ht_29(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    with monkeypatch.context() as patch:
        patch.setattr("orca_master.services.status.all_statuses", broken)
        answer = await cluster.call("GET", "/api/v1/status")
    assert answer.status == 500
    assert answer.json["request_id"] in answer.json["error"]
    assert "secret detail" not in answer.text
    assert (await cluster.call("GET", "/api/v1/status")).status == 200


async def test_an_answer_to_head_has_no_body_and_the_connection_goes_on(cluster: InProcess) -> None:
    head = a_request(cluster, b"", method="HEAD", path="/api/v1/health")
    parts = urlsplit(cluster.api)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(head + a_request(cluster, b"", method="GET", path="/api/v1/health"))
    first = await reader.readuntil(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 405 ")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize(
    ("version", "asked", "told", "goes_on"),
    [
        ("1.1", "", None, True),
        ("1.1", "Connection: close\r\n", "close", False),
        ("1.0", "", "close", False),
        ("1.0", "Connection: keep-alive\r\n", "keep-alive", True),
    ],
)
async def test_a_connection_is_kept_as_the_client_wants_it(
    cluster: InProcess, version: str, asked: str, told: str | None, goes_on: bool
) -> None:
    raw = f"GET /api/v1/health HTTP/{version}\r\nHost: x\r\n{asked}\r\n".encode()
    parts = urlsplit(cluster.api)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(raw)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert re.findall(r"\r\nConnection: (\S+)", head) == ([told] if told else [])
    assert re.search(r"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", head)
    length = re.search(r"\r\nContent-Length: (\d+)\r\n", head)
    assert length is not None
    await reader.readexactly(int(length[1]))
    if goes_on:
        writer.write(raw)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    else:
        async with asyncio.timeout(60):
            assert await reader.read() == b""
    writer.close()


async def test_who_waits_for_a_go_ahead_is_told_to_send(cluster: InProcess) -> None:
    body = a_deploy(replicas=0)
    raw = a_request(cluster, body, path=f"{DEPLOY}?wait=false", headers="Expect: 100-continue\r\n")
    head, _, _ = raw.partition(b"\r\n\r\n")
    parts = urlsplit(cluster.api)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(head + b"\r\n\r\n")
    async with asyncio.timeout(60):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 202 ")
    writer.close()


async def test_a_path_may_be_written_in_percents(cluster: InProcess) -> None:
    raw = a_request(cluster, b"", method="GET", path="/api/v1/%73tatus?proj%65ct=a")
    status, text = await exchange(cluster, raw)
    assert (status, '{"services":[]}' in text) == (200, True)


async def test_a_body_that_is_not_packed_as_its_head_says(cluster: InProcess) -> None:
    raw = a_request(cluster, b"no gzip at all", headers="Content-Encoding: gzip\r\n")
    assert (await exchange(cluster, raw))[0] == 400


async def test_whoever_leaves_small_answers_unread_is_closed_ht_23(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them fit into the system's buffers: only the system knows that they are not read."""
    monkeypatch.setattr(doorman, "UNREAD_SECONDS", 1)
    parts = urlsplit(cluster.api)
    this = psutil.Process()
    before = this.num_fds()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((parts.hostname, parts.port))
        client.sendall(a_request(cluster, b"", method="GET", path="/api/v1/openapi.json") * 3)
        await eventually(lambda: this.num_fds() == before + 2)  # both ends are in this process
        await eventually(lambda: this.num_fds() == before + 1, seconds=30.0)
    assert (await cluster.call("GET", "/api/v1/health")).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer \xad\xd9",
        "Origin: http://\xff\xfe",
        "traceparent: \xff",
        "Cookie: \xff",
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/audit/stream", "/api/v1/nope"])
async def test_bytes_that_are_no_text_in_a_header_are_no_fault_of_ours(
    cluster: InProcess, header: str, path: str
) -> None:
    parts = urlsplit(cluster.api)
    head = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n{header}\r\n\r\n"
    status, _ = await exchange(cluster, head.encode("latin-1"))
    assert status in (400, 401, 404)


@pytest.mark.parametrize("header", ["traceparent", "X-Request-Id", "Idempotency-Key", "Origin"])
async def test_what_comes_in_is_not_reflected_into_a_header_ht_20(
    cluster: InProcess, header: str
) -> None:
    """A value with a line break is no header, and our own headers hold nothing of a caller's."""
    path = "/api/v1/status?x=%0d%0aSet-Cookie:%20a=b"
    evil = a_request(
        cluster, b"", method="GET", path=path, headers=f"{header}: a\rSet-Cookie: b\r\n"
    )
    status, text = await exchange(cluster, evil)
    assert status == 400
    assert "\r\nset-cookie" not in text.lower()
    fine = a_request(cluster, b"", method="GET", path=path, headers=f"{header}: reflected\r\n")
    _, text = await exchange(cluster, fine)
    head = text.partition("\r\n\r\n")[0]
    assert "reflected" not in head
    assert "\r\nset-cookie" not in head.lower()
