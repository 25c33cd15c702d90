"""Requests through the ingress of real nodes: none fails, whatever is changed under them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from certificates import a_certificate
from integration.conftest import RealCluster, running
from orca.client import Client
from traffic import Seen, a_server, ask, fetch, traffic

HOST = "app.example.com"
REPLICAS = 10


def ports(cluster: RealCluster) -> list[int]:
    """Of the workers' ingress, for HTTP."""
    return [cluster.ingress_port + 2 * number for number in range(cluster.workers)]


def web(version: str, replicas: int = REPLICAS, **more: Any) -> dict[str, Any]:
    return a_server("web", replicas, domain=HOST, env={"VERSION": version}, **more)


async def serving(cluster: RealCluster) -> None:
    """Every node serves."""
    async with cluster.client() as client, asyncio.timeout(60):
        while True:
            nodes = (await client.routes())["nodes"]
            if all(node["state"] == "serving" for node in nodes):
                return
            await asyncio.sleep(0.05)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with running(tmp_path / "three", "process", workers=2, masters=3) as cluster:
        async with cluster.client() as client:
            await client.deploy([web("1")])
        await serving(cluster)
        yield cluster


async def test_no_request_fails_whatever_is_changed(three: RealCluster) -> None:
    """One after the other, under steady requests to both nodes."""
    cluster = three
    async with traffic(ports(cluster), HOST) as seen:
        step = _Steps(seen)
        async with cluster.client() as client:
            async with step("rolling update of ten"):
                await _deployed(client, web("2"))
            async with step("blue-green switch"):
                await _deployed(client, web("3", deploy={"strategy": "blue-green"}))
            async with step("canary with three steps, promoted"):
                await _canary_promoted(client, cluster)
            async with step("canary rolled back"):
                await _canary_rolled_back(client, cluster, seen)
            async with step("drain"):
                await client.drain("worker-2")
                await _until_empty(cluster, "worker-2")
                await client.undrain("worker-2")
            async with step("scaled to two and back"):
                await client.scale("web", 2)
                await cluster.until("web", running_replicas=2)
                await client.scale("web", REPLICAS)
                await cluster.until("web", running_replicas=REPLICAS)
            async with step("the leader is killed"):
                leader = await _leader(client)
                await cluster.kill(leader)
                await _deployed(client, web("5"))
                await cluster.up()
            async with step("a worker is killed and comes back"):
                await cluster.kill("worker-1")
                await asyncio.sleep(1)
                await cluster.up()
                await cluster.until("web", status="running", running_replicas=REPLICAS)
    assert seen.failures == []
    assert set(seen.versions()) == {"1", "2", "3", "4", "5", "bad"}


class _Steps:
    """Says in which step requests failed."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    @asynccontextmanager
    async def __call__(self, name: str) -> AsyncIterator[None]:
        before = self._seen.count
        yield
        await asyncio.sleep(0.5)  # what is on its way belongs to this step
        assert self._seen.failures == [], name
        assert self._seen.count > before, name


async def _deployed(client: Client, service: dict[str, Any]) -> None:
    answer = await client.deploy([service])
    assert answer["deployed"] == ["web"], answer


def _a_canary(version: str) -> dict[str, Any]:
    steps = [{"weight": weight, "pause": True} for weight in (5, 20, 50)]
    canary = {"count": 2, "steps": steps}
    return web(version, deploy={"strategy": "canary", "canary": canary})


async def _canary_promoted(client: Client, cluster: RealCluster) -> None:
    await client.deploy([_a_canary("4")])
    for number in (1, 2, 3):
        await _until_rollout(cluster, state="paused", weight=(5, 20, 50)[number - 1])
        await client.promote("web", step=number < 3)
    await cluster.until("web", rollout=None, status="running")


async def _canary_rolled_back(client: Client, cluster: RealCluster, seen: Seen) -> None:
    await client.deploy([_a_canary("bad")])
    await _until_rollout(cluster, state="paused")
    async with asyncio.timeout(60):
        while "bad" not in seen.versions():
            await asyncio.sleep(0.05)
    await client.rollback("web")
    await cluster.until("web", rollout=None, status="running")


async def _until_rollout(cluster: RealCluster, **expected: Any) -> None:
    async with asyncio.timeout(60):
        while True:
            rollout = (await cluster.service("web"))["rollout"]
            if rollout and all(rollout[key] == value for key, value in expected.items()):
                return
            await asyncio.sleep(0.05)


async def _until_empty(cluster: RealCluster, node: str) -> None:
    async with asyncio.timeout(60):
        while any(t["node"] == node for t in (await cluster.service("web"))["tasks"]):
            await asyncio.sleep(0.05)


async def _leader(client: Client) -> str:
    masters = (await client.masters())["masters"]
    return str(next(m["name"] for m in masters if m["role"] == "leader"))


def _envoy(cluster: RealCluster, worker: str) -> psutil.Process:
    folder = str(cluster.folder / worker / "ingress")
    (found,) = [
        process
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] == "envoy" and process.info["cwd"] == folder
    ]
    return found


async def test_what_a_canary_gets_is_exact(tmp_path: Path) -> None:
    """Of 10,000 requests through one node within a tenth of a percent, whatever the numbers of replicas."""
    async with running(tmp_path / "one", "process", workers=1) as cluster:
        async with cluster.client() as client:
            await client.deploy([web("1", 3)])
            await serving(cluster)
            canary = {"strategy": "canary", "canary": {"weight": 20, "match": {"cookie": "try"}}}
            await client.deploy([web("2", 3, deploy=canary)])
            await _until_rollout(cluster, state="paused", weight=20)
        (port,) = ports(cluster)
        cookie = "Cookie: a=b; try=1\r\n"
        await _eventually(lambda: _says(port, "2 ", headers=cookie))
        assert {(await fetch(port, HOST, headers=cookie))[1][0] for _ in range(20)} == {"2"}
        async with traffic([port], HOST, kept=100_000, fresh=1, clients=10) as seen:
            async with asyncio.timeout(120):
                while seen.count < 10_000:
                    await asyncio.sleep(0.05)
        assert seen.failures == []
        share = seen.versions()["2"] / seen.count
        assert abs(share - 0.2) < 0.001, seen.versions()


async def test_the_ingress_outlives_its_worker_and_comes_back_when_it_dies(
    tmp_path: Path,
) -> None:
    async with (
        running(tmp_path / "one", "process", workers=1) as cluster,
        cluster.client() as client,
    ):
        await client.deploy([web("1", 2)])
        await serving(cluster)
        (port,) = ports(cluster)
        first = _envoy(cluster, "worker-1")
        await cluster.kill("worker-1", "master-1")
        assert (await fetch(port, HOST))[0] == 200  # nobody is left but Envoy and the replicas
        await cluster.up()
        await client.deploy([web("2", 2)])
        await _eventually(lambda: _says(port, "2 "))
        assert _envoy(cluster, "worker-1").pid == first.pid
        first.kill()
        await _eventually(lambda: _answers(port))
        second = _envoy(cluster, "worker-1")
        assert second.pid != first.pid
        await client.stop("web", purge=True)
        await _eventually(lambda: _is_idle(client))
        assert not second.is_running()


async def _eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def _answers(port: int) -> bool:
    try:
        return (await fetch(port, HOST))[0] == 200
    except (OSError, EOFError):
        return False


async def _says(port: int, start: str, *, headers: str = "") -> bool:
    return (await fetch(port, HOST, headers=headers))[1].startswith(start)


async def _is_idle(client: Client) -> bool:
    return all(node["state"] == "idle" for node in (await client.routes())["nodes"])


async def test_a_node_whose_port_is_taken_says_so_and_serves_once_it_is_free(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "one", "process", workers=1) as cluster:
        (port,) = ports(cluster)
        taken = await asyncio.start_server(lambda _, writer: writer.close(), "0.0.0.0", port)
        async with cluster.client() as client:
            await client.deploy([web("1", 1)])
            async with asyncio.timeout(60):
                while (node := (await client.routes())["nodes"][0])["state"] != "failed":
                    await asyncio.sleep(0.05)
            assert node["reason"].startswith(f"port {port} of 0.0.0.0 cannot be opened")
            assert "ingress_http_port" in node["reason"]
            taken.close()
            await serving(cluster)
            assert (await fetch(port, HOST))[0] == 200


async def test_https_with_a_certificate_that_is_renewed_without_a_cut(tmp_path: Path) -> None:
    """Connections that stand go on; a new one gets the new certificate."""
    async with (
        running(tmp_path / "one", "process", workers=1) as cluster,
        cluster.client() as client,
    ):
        await client.deploy([web("1", 2)])
        await serving(cluster)
        (port,) = ports(cluster)
        chain, key = a_certificate(HOST)
        await client.set_certificate("app", chain.decode(), key.decode())
        await _eventually(lambda: _shows(port + 1, chain))
        assert (await fetch(port, HOST))[0] == 308
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port + 1, ssl=_trusting_all(), server_hostname=HOST
        )
        assert (await ask(reader, writer, HOST))[0] == 200
        renewed, key = a_certificate(HOST)
        await client.set_certificate("app", renewed.decode(), key.decode())
        await _eventually(lambda: _shows(port + 1, renewed))
        assert (await ask(reader, writer, HOST))[0] == 200
        writer.close()
        with pytest.raises(OSError):
            await asyncio.open_connection(
                "127.0.0.1", port + 1, ssl=_trusting_all(), server_hostname="other.example.com"
            )
        folder = cluster.folder / "worker-1"
        assert not any(
            key[40:80] in path.read_bytes() for path in folder.rglob("*") if path.is_file()
        )
        await client.remove_certificate("app")
        await _eventually(lambda: _answers(port))


def _trusting_all() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _shows(port: int, chain: bytes) -> bool:
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=_trusting_all(), server_hostname=HOST
        )
    except OSError:
        return False
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bool(ssl.DER_cert_to_PEM_cert(shown).strip() == chain.decode().strip())
