"""A master as the service manager sees it: READY, WATCHDOG, RELOADING, credentials. FAULTS SD."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from inprocess import eventually
from integration.conftest import free_ports
from orca.client import Client

SECONDS = 60.0


class Manager:
    """Stands in for systemd: hears what its one service tells, and has its standard error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = str(folder / "notify")
        self.data = folder / "master"
        self.config = folder / "master.toml"
        self.log = folder / "master.log"
        self.port = free_ports(3)
        self.api = f"http://127.0.0.1:{self.port}"
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        self.process: subprocess.Popen[bytes]

    def start(self, environment: dict[str, str] | None = None, stderr: Any = None) -> None:
        ports = {"api_port": 0, "grpc_port": 1, "peer_port": 2}
        lines = [f"{name} = {self.port + n}" for name, n in ports.items()]
        if not self.config.exists():
            self.config.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "orca_master", "--config", str(self.config)]
        command += ["--data-dir", str(self.data), "--bind", "127.0.0.1"]
        told = {"NOTIFY_SOCKET": self.address, **(environment or {})}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **told}, stderr=stderr or log
            )

    async def hear(self, line: str) -> None:
        """Wait until the service tells this."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SECONDS):
            while line not in self.heard:
                self.heard += (await loop.sock_recv(self._socket, 4096)).decode().splitlines()

    async def hear_nothing(self, seconds: float) -> bool:
        """Whether nothing at all is told for so long, after what was told before is read."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._socket.recv(4096)
            except BlockingIOError:
                break
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_recv(self._socket, 4096)
        except TimeoutError:
            return True
        return False

    async def ended(self) -> int:
        async with asyncio.timeout(SECONDS):
            while self.process.poll() is None:
                await asyncio.sleep(0.02)
        return self.process.returncode

    async def health(self) -> int:
        async with aiohttp.ClientSession() as http, http.get(f"{self.api}/api/v1/health") as got:
            return got.status

    def close(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._socket.close()


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


@asynccontextmanager
async def ready(manager: Manager, environment: dict[str, str] | None = None) -> AsyncIterator[None]:
    manager.start(environment)
    await manager.hear("READY=1")
    yield
    manager.process.send_signal(signal.SIGTERM)
    assert await manager.ended() == 0
    await manager.hear("STOPPING=1")


async def test_ready_is_told_when_it_serves_sd_04(manager: Manager) -> None:
    async with ready(manager):
        assert await manager.health() == 200


async def test_ready_waits_for_a_leader_sd_04(manager: Manager, tmp_path: Path) -> None:
    """A master of three that starts alone serves, and does not call itself ready."""
    async with ready(manager):
        token = (manager.data / "admin.token").read_text().strip()
        async with Client(manager.api, token) as client:
            join = await client.join_token(role="master")
            assert (await client.masters())["voters"] == 1
        second = Manager(_folder(tmp_path / "second"))
        try:
            told = {"ORCA_MASTER_NAME": "second", "ORCA_MASTER_JOIN": manager.api}
            second.start({**told, "ORCA_MASTER_JOIN_TOKEN": join})
            await second.hear("READY=1")
            second.process.send_signal(signal.SIGTERM)
            await second.ended()
            manager.process.kill()
            await manager.ended()
            second.heard.clear()
            second.start(told)
            await eventually(lambda: _listens(second))
            assert "READY=1" not in second.heard
            manager.heard.clear()
            manager.start()
            await manager.hear("READY=1")
            await second.hear("READY=1")
        finally:
            second.close()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _listens(manager: Manager) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", manager.port)) == 0


async def test_the_watchdog_hears_nothing_of_a_master_that_stands_still_sd_05(
    manager: Manager,
) -> None:
    async with ready(manager, {"WATCHDOG_USEC": "2000000"}):
        await manager.hear("WATCHDOG=1")
        manager.process.send_signal(signal.SIGSTOP)
        await manager.hear_nothing(0.2)  # what was under way
        assert await manager.hear_nothing(3.0), "systemd would start it again now"
        manager.process.send_signal(signal.SIGCONT)
        manager.heard.clear()
        await manager.hear("WATCHDOG=1")


async def test_without_a_watchdog_nothing_is_told(manager: Manager) -> None:
    async with ready(manager, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}):
        await manager.hear_nothing(0.1)
        assert await manager.hear_nothing(1.0)


async def test_a_hangup_reloads_the_log_level_and_stops_nothing_sd_08(manager: Manager) -> None:
    async with ready(manager), aiohttp.ClientSession(manager.api) as http:
        await http.get("/api/v1/health")
        assert "request answered" not in manager.log.read_text()
        manager.config.write_text(manager.config.read_text() + 'log_level = "debug"\n')
        manager.heard.clear()
        manager.process.send_signal(signal.SIGHUP)
        await manager.hear("RELOADING=1")
        await manager.hear("READY=1")
        async with http.get("/api/v1/health") as got:
            assert got.status == 200
        await eventually(lambda: "request answered" in manager.log.read_text())


async def test_a_hangup_with_a_mistake_changes_nothing_and_says_so_sd_08(manager: Manager) -> None:
    async with ready(manager):
        manager.config.write_text(manager.config.read_text() + 'log_level = "chatty"\n')
        manager.heard.clear()
        manager.process.send_signal(signal.SIGHUP)
        await manager.hear("READY=1")
        assert "'chatty' is none of debug, info" in manager.log.read_text()
        assert await manager.health() == 200


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data.chmod(0o755), "can be read by others: chmod 700"),
        (lambda data: (data / "kek").chmod(0o644), "can be read by others: chmod 600"),
        (lambda data: (data / "admin.token").chmod(0o640), "can be read by others: chmod 600"),
        (lambda data: (data / "identity.json").chmod(0o604), "can be read by others: chmod 600"),
        pytest.param(
            lambda data: os.chown(data, 65534, 65534),
            "belongs to user 65534",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
        ),
    ],
)
async def test_a_folder_that_others_may_read_is_refused_sd_10(
    manager: Manager, spoil: Any, said: str
) -> None:
    async with ready(manager):
        pass
    spoil(manager.data)
    manager.start()
    assert await manager.ended() == 1
    assert said in manager.log.read_text()


async def test_a_closed_standard_error_ends_nothing_sd_13(manager: Manager) -> None:
    reading, writing = os.pipe()
    manager.config.write_text("")
    manager.config.unlink()
    manager.start({"ORCA_MASTER_LOG_LEVEL": "debug"}, stderr=writing)
    os.close(writing)
    os.close(reading)  # from now on a line that is written is EPIPE
    await manager.hear("READY=1")
    for _ in range(20):
        assert await manager.health() == 200
    manager.process.send_signal(signal.SIGTERM)
    assert await manager.ended() == 0


async def test_keys_and_tokens_come_as_credentials_sd_14(manager: Manager, tmp_path: Path) -> None:
    credentials = _folder(tmp_path / "credentials")
    key = os.urandom(32)
    (credentials / "orca.kek").write_bytes(key)
    (credentials / "orca.kek").chmod(0o400)
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    async with ready(manager, environment):
        assert not (manager.data / "kek").exists()
        told = Path(f"/proc/{manager.process.pid}/environ").read_bytes()
        assert key not in told
        assert key.hex().encode() not in told
        assert (manager.data / "admin.token").read_bytes().strip() not in told
    (credentials / "orca.kek").chmod(0o600)
    (credentials / "orca.kek").write_bytes(os.urandom(32))
    manager.start(environment)
    assert await manager.ended() == 1
    assert "key" in manager.log.read_text().splitlines()[-1]


async def test_the_folder_is_made_private(manager: Manager) -> None:
    async with ready(manager):
        found = [manager.data, *manager.data.rglob("*")]
        assert {str(p) for p in found if stat.S_IMODE(p.stat().st_mode) & 0o077} == set()
        assert json.loads((manager.data / "identity.json").read_text())["started"]
