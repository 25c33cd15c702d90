"""A master with its real HTTP server and log, and a worker with a fake engine, in this process.

Every answer that a test gets through `InProcess.call` is held against the OpenAPI document.
"""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from documented import Told
from orca_common.env import Disk
from orca_common.real import real_env
from orca_master.app.config import MasterConfig
from orca_master.app.core import MasterCore
from orca_master.app.folder import found_folder
from orca_master.app.home import myself
from orca_master.app.keys import found
from orca_master.app.parts import Parts
from orca_master.cluster.masters.operations import register
from orca_master.cluster.model import NODES, Node, NodeState
from orca_master.errors import Forbidden, Trouble
from orca_master.http.route import Route
from orca_master.http.server import HttpServer
from orca_master.http.streams import Form
from orca_master.identity.model import Role
from orca_master.identity.operations import create_token
from orca_master.ingress.certificates.authority import Account, Refused, Session
from orca_master.ingress.certificates.opening import open_acme
from sim.cluster import SimWorker
from sim.streams import MasterEnd, Stream

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


async def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass
class Answer:
    status: int
    json: Any
    text: str
    headers: Any


class InProcess:
    """`worker` may be killed and started; `call` speaks to the API as the admin."""

    def __init__(
        self,
        core: MasterCore,
        api: str,
        token: str,
        group: asyncio.TaskGroup,
        routes: Sequence[Route],
    ) -> None:
        self.core = core
        self.routes = routes
        self.told = Told(routes)
        self.api = api
        self.token = token
        self._group = group
        self.worker = SimWorker(1, 1, self, random.Random(1))
        self.is_up = True
        self.count = 1
        self.client = aiohttp.ClientSession(api)

    def accept(self, node_id: str, stream: Stream, refusal: list[str]) -> None:
        self._group.create_task(self._serve(node_id, stream, refusal))

    async def _serve(self, node_id: str, stream: Stream, refusal: list[str]) -> None:
        try:
            await self.core.streams.serve(node_id, MasterEnd(stream))
        except Forbidden as error:
            refusal.append(error.message)
        except (Trouble, ConnectionError):
            pass
        finally:
            stream.close()

    async def add_node(self) -> None:
        node = Node(id=self.worker.id, name=self.worker.name, joined_at=self.core.env.now())
        await self.core.store.update(lambda tx: tx.put(NODES, node))
        self.worker.start()
        await eventually(self._node_is_ready)

    def _node_is_ready(self) -> bool:
        node = self.core.store.state.get(NODES, self.worker.id)
        return node is not None and node.state is NodeState.READY

    async def add_token(self, role: Role) -> str:
        secret = f"orca_{role}-token-for-tests"
        await self.core.store.update(
            lambda tx: create_token(
                tx, id=str(role), name=str(role), role=role, secret=secret, now=0.0
            )
        )
        return secret

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = "", **options: Any
    ) -> Answer:
        """`token` empty: the admin's; None: none."""
        headers = options.pop("headers", {})
        if token is not None:
            headers = {"Authorization": f"Bearer {token or self.token}"} | headers
        async with self.client.request(
            method, path, json=body, headers=headers, **options
        ) as response:
            is_endless = response.content_type == Form.NDJSON.value
            text = "" if is_endless else await response.text()
            is_json = response.content_type == "application/json"
            found = await response.json() if is_json else None
            self.told.check(method, str(response.url), response.status, found)
            return Answer(response.status, found, text, response.headers)

    async def deploy(self, *services: dict[str, Any], **params: str) -> Answer:
        body = {"services": [{"image": "app:1"} | service for service in services]}
        return await self.call("POST", "/api/v1/deploy", body, params=params)

    async def status(self, name: str) -> dict[str, Any]:
        answer = await self.call("GET", "/api/v1/status")
        found: dict[str, Any] = next(s for s in answer.json["services"] if s["name"] == name)
        return found

    def waiting(self) -> asyncio.Timeout:
        """What is waited for comes; this ends a test that would hang."""
        return asyncio.timeout(60)

    async def until(self, name: str, **expected: Any) -> dict[str, Any]:
        """Wait for the service's status to have these values."""
        async with self.waiting():
            while True:
                found = await self.status(name)
                if all(found[key] == value for key, value in expected.items()):
                    return found
                await asyncio.sleep(0.02)


async def second_node(cluster: InProcess) -> SimWorker:
    """Another node, ready; whoever asked for it kills it in the end."""
    worker = SimWorker(2, 1, cluster, random.Random(2))
    store = cluster.core.store
    await store.update(
        lambda tx: tx.put(NODES, Node(id=worker.id, name=worker.name, joined_at=1.0))
    )
    worker.start()

    def is_ready() -> bool:
        node = store.state.get(NODES, worker.id)
        return node is not None and node.state is NodeState.READY

    await eventually(is_ready)
    return worker


def _near(account: Account) -> Session:
    """An order of certificates, from nobody but an authority on this machine."""
    if not account.directory.startswith("https://localhost:"):
        raise Refused("tests ask nobody outside")
    return open_acme(account)


@asynccontextmanager
async def in_process(
    folder: Path, *, with_node: bool = True, disk: Disk | None = None
) -> AsyncIterator[InProcess]:
    """`disk` holds the log, if it is not to be the real one."""
    env = real_env(threads=2)
    if disk is not None:
        env = replace(env, disk=disk)
    settings = MasterConfig(
        data_dir=str(folder),
        bind=HOST,
        api_port=free_port(),
        heartbeat_seconds=0.5,
        node_down_after_seconds=2.0,
    )
    kept = found_folder(env, folder)
    parts = Parts(env, settings, kept, myself(settings, kept), open_session=_near)
    core = parts.core
    await parts.start()
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(core.run())
            keeping = group.create_task(parts.wrapping.run())
            await found(core, kept, parts.me, cluster_name="test")
            await core.store.update(lambda tx: register(tx, parts.me))
            routes = parts.routes()
            server = HttpServer(core.env, routes, parts.keys.authenticated, meters=parts.meters)
            await server.start(HOST, settings.api_port)
            assert kept.admin_token is not None
            api = f"http://{HOST}:{settings.api_port}"
            cluster = InProcess(core, api, kept.admin_token, group, routes)
            try:
                if with_node:
                    await cluster.add_node()
                yield cluster
            finally:
                await cluster.client.close()
                cluster.is_up = False
                await cluster.worker.kill()
                await server.close()
                async with cluster.waiting():  # a stream without a leader would wait for one
                    while core.streams.count:
                        await asyncio.sleep(0.01)
                keeping.cancel()
                running.cancel()
    finally:
        await parts.close()
