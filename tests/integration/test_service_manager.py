"""A master as the service manager sees it: READY, WATCHDOG, RELOADING, credentials. FAULTS SD."""

import asyncio
import datetime
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

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

    def heard_by_now(self) -> list[str]:
        """All that was told, without waiting for more."""
        while True:
            try:
                self.heard += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.heard

    async def hear_nothing(self, seconds: float) -> bool:
        """Whether nothing at all is told for so long, after what was told before is read."""
        loop = asyncio.get_running_loop()
        self.heard_by_now()
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
            assert "READY=1" not in second.heard_by_now()
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


def issue(folder: Path, host: str = "127.0.0.1") -> bytes:
    """A new certificate of its own authority and its key, where the settings name them. Returns DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "api.pem").write_bytes(made.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "api.key").write_bytes(pem)
    (folder / "api.key").chmod(0o600)
    return made.public_bytes(Encoding.DER)


async def shown_certificate(manager: Manager) -> bytes:
    """Of a new connection."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", manager.port, ssl=tls)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bytes(found)


async def reload(manager: Manager) -> None:
    manager.heard.clear()
    manager.process.send_signal(signal.SIGHUP)
    await manager.hear("READY=1")


async def test_the_api_speaks_tls_and_reloads_its_certificate_sd_08(manager: Manager) -> None:
    first = issue(manager.folder)
    files = {
        "ORCA_MASTER_API_CERTIFICATE": str(manager.folder / "api.pem"),
        "ORCA_MASTER_API_KEY": str(manager.folder / "api.key"),
    }
    async with ready(manager, files):
        url = f"https://127.0.0.1:{manager.port}"
        token = (manager.data / "admin.token").read_text().strip()
        tls = ssl.create_default_context(cafile=str(manager.folder / "api.pem"))
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            stream = await http.get(f"{url}/api/v1/audit/stream", ssl=tls)
            assert stream.status == 200
            assert await shown_certificate(manager) == first
            tls.load_cert_chain(manager.folder / "api.pem", manager.folder / "api.key")
            status = f"{url}/api/v1/status"
            async with http.get(status, ssl=tls, headers={"Authorization": ""}) as answer:
                assert answer.status == 401, "AZ-26: a certificate is no token"
            second = issue(manager.folder)
            await reload(manager)
            assert await shown_certificate(manager) == second
            body = {"services": [{"name": "a", "command": ["true"], "replicas": 0}]}
            new = ssl.create_default_context(cafile=str(manager.folder / "api.pem"))
            deploy = f"{url}/api/v1/deploy?wait=false"
            async with http.post(deploy, json=body, ssl=new) as deployed:
                assert deployed.status == 202
            async with asyncio.timeout(SECONDS):
                assert b"services/default/a" in await stream.content.readline(), "it went on"
            stream.close()
        (manager.folder / "api.pem").write_text("no certificate")
        await reload(manager)
        assert await shown_certificate(manager) == second, "what works is kept"
        assert "are no certificate and its key" in manager.log.read_text()


async def test_the_command_line_and_workers_trust_an_authority_by_file(manager: Manager) -> None:
    issue(manager.folder)
    files = {
        "ORCA_MASTER_API_CERTIFICATE": str(manager.folder / "api.pem"),
        "ORCA_MASTER_API_KEY": str(manager.folder / "api.key"),
    }
    async with ready(manager, files):
        token = (manager.data / "admin.token").read_text().strip()
        environment = {
            **os.environ,
            "ORCA_API": f"https://127.0.0.1:{manager.port}",
            "ORCA_TOKEN": token,
        }
        orca = [str(Path(sys.executable).with_name("orca"))]
        refused = await run(*orca, "status", environment=environment)
        assert refused[0] == 3
        assert "certificate" in refused[1]
        environment["SSL_CERT_FILE"] = str(manager.folder / "api.pem")
        assert (await run(*orca, "status", environment=environment))[0] == 0
        code, said = await run(*orca, "nodes", "token", environment=environment)
        assert code == 0
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orca_worker", "--name", "w1", "--runtime", "process"),
            *("--data-dir", str(manager.folder / "worker"), "--join", said.split()[0]),
            *("--master", environment["ORCA_API"]),
            env=environment,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(SECONDS):
                while "ready" not in (await run(*orca, "nodes", environment=environment))[1]:
                    await asyncio.sleep(0.2)
        finally:
            worker.terminate()
            await worker.wait()


async def run(*command: str, environment: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "api.key").chmod(0o644), "can be read by others: chmod 600"),
        (lambda folder: (folder / "api.key").unlink(), "No such file"),
        (lambda folder: (folder / "api.pem").write_text("x"), "are no certificate and its key"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_named_sd_10(
    manager: Manager, spoil: Any, said: str
) -> None:
    issue(manager.folder)
    spoil(manager.folder)
    files = {
        "ORCA_MASTER_API_CERTIFICATE": str(manager.folder / "api.pem"),
        "ORCA_MASTER_API_KEY": str(manager.folder / "api.key"),
    }
    manager.start(files)
    assert await manager.ended() == 1
    assert said in manager.log.read_text()
