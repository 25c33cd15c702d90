"""For tests of ACME: Debian's Pebble, an authority for tests, and the names that it asks for.

Pebble forgets everything when it ends, its own certificate authority too.
"""

import asyncio
import json
import os
import shutil
import socket
import ssl
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509

from certificates import a_certificate

START_SECONDS = 60
SURE = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "100"}
"""It leaves nothing to chance, and asks for no second proof of a name."""
ADDRESS = bytes((127, 0, 0, 1))


def what_is_missing() -> str:
    """Why it cannot run here; empty: it can."""
    return "" if shutil.which("pebble") else "not installed: pebble"


class Names(asyncio.DatagramProtocol):
    """Answers every question for an IPv4 address with this machine's, at once or when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.let.set()
        self.asked = asyncio.Event()
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: list[tuple[bytes, tuple[str, int]]] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        self.port = int(self._transport.get_extra_info("sockname")[1])

    def hold(self) -> None:
        """Answer nothing until `release`."""
        self.let.clear()
        self.asked.clear()

    def release(self) -> None:
        self.let.set()
        waiting, self._waiting = self._waiting, []
        for question, address in waiting:
            self.datagram_received(question, address)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.set()
        if not self.let.is_set():
            self._waiting.append((data, addr))
            return
        assert self._transport is not None
        self._transport.sendto(_answer(data), addr)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _answer(query: bytes) -> bytes:
    """RFC 1035, 4.1: the header, the question as it was, and for an A record the address."""
    end = query.index(0, 12) + 5
    is_a = query[end - 4 : end - 2] == b"\x00\x01"
    counts = bytes((0, 1, 0, int(is_a), 0, 0, 0, 0))
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04" + ADDRESS if is_a else b""
    return query[:2] + b"\x85\x80" + counts + query[12:end] + record


class Pebble:
    """As an asynchronous context. `http_port`: where it looks for the proofs; `ca`: PEM, to trust it."""

    def __init__(self, folder: Path, http_port: int) -> None:
        folder.mkdir()
        self._folder = folder
        self._http_port = http_port
        self.names = Names()
        self._port, self._management = _free_port(), _free_port()
        self.directory = f"https://localhost:{self._port}/dir"
        chain, key = a_certificate("localhost")
        self.ca = chain.decode()
        (folder / "cert.pem").write_bytes(chain)
        (folder / "key.pem").write_bytes(key)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.names.start()
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        self.names.close()

    async def start(self, *, validity_seconds: int = 0) -> None:
        """With certificates that last so long; 0: for years."""
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self._folder / "cert.pem"),
            "privateKey": str(self._folder / "key.pem"),
            "httpPort": self._http_port,
            "tlsPort": self._http_port + 1,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "certificateValidityPeriod": validity_seconds,
        }
        config = self._folder / "config.json"
        config.write_text(json.dumps({"pebble": settings}))
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "pebble", "-config", str(config), "-dnsserver", f"127.0.0.1:{self.names.port}",
                stdout=log, stderr=log, env=os.environ | SURE,
            )  # fmt: skip
        async with asyncio.timeout(START_SECONDS):
            while not await self._answers():
                assert self._process.returncode is None, self.log
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def issuer(self) -> str:
        """The name of the one who signs, of this run of it."""
        body = await self._get("/intermediates/0")
        return x509.load_pem_x509_certificate(body).subject.rfc4514_string()

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    async def _answers(self) -> bool:
        try:
            await self._get("/intermediates/0")
        except (OSError, EOFError):
            return False
        return True

    async def _get(self, path: str) -> bytes:
        trusting = ssl.create_default_context(cadata=self.ca)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._management, ssl=trusting, server_hostname="localhost"
        )
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        try:
            answer = await reader.read()
        finally:
            writer.close()
        return answer.partition(b"\r\n\r\n")[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
