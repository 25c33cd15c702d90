"""Real masters as processes that a test starts, stops and breaks one by one, wherever they run."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from chaos.daemons import DaemonProcess
from orca.client import Client
from orca.errors import OrcaError

READY_SECONDS = 90.0
PORTS = (6880, 6881, 6882)


class MasterProcess(DaemonProcess):
    """One master, in `folder/name`. `prefix` is what its command runs under (`nsenter …`)."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        host: str = "127.0.0.1",
        ports: Sequence[int] = PORTS,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.api = f"http://{host}:{ports[0]}"
        self.peers = (host, ports[2])
        api, grpc, peer = map(str, ports)
        command = [
            *(*prefix, sys.executable, "-m", "orca_master", "--name", name),
            *("--data-dir", str(folder / name), "--bind", host),
            *("--log-level", "info", "--log-json"),
            *("--api-port", api, "--grpc-port", grpc, "--peer-port", peer),
        ]
        super().__init__(folder, name, command, environment)

    def start(self, *, join: Sequence[str] = (), token: str = "") -> None:
        told = {"ORCA_MASTER_JOIN_TOKEN": token} if token else {}
        self._start(*(part for api in join for part in ("--join", api)), **told)

    async def ended(self, seconds: float = 60.0) -> int:
        """Its status, once it has ended by itself."""
        async with asyncio.timeout(seconds):
            while (status := self.status) is None:
                await asyncio.sleep(0.02)
        return status

    @property
    def token(self) -> str:
        """The administrator's, on the first master."""
        return (self.data / "admin.token").read_text().strip()

    async def until_serving(self, seconds: float = READY_SECONDS) -> None:
        """Until it knows who leads. Raises AssertionError when it ends before."""
        async with asyncio.timeout(seconds), Client(self.api) as client:
            while True:
                assert self.is_alive, f"{self.name} ended: {self.said[-2000:]}"
                with contextlib.suppress(OrcaError):
                    if "no master leads" not in (await client.health()).get("reasons", []):
                        return
                await asyncio.sleep(0.02)


async def stale_services(http: aiohttp.ClientSession, api: str) -> Any:
    """What this very master knows of all services."""
    async with http.get(f"{api}/api/v1/status?consistency=stale") as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["services"]
