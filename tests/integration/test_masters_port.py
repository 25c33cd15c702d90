"""Who and what the masters' port of a real cluster turns away: closed, nothing executed, no memory spent."""

import asyncio
import contextlib
import os
import pickle
import ssl
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from integration.conftest import RealCluster, running
from orca_master.state.raft import codec
from orca_master.state.raft.codec import Hello, TimeoutNow
from orca_proto.identity import MASTER_NAME
from orca_proto.join import parse
from orca_worker.enrol import join
from raft_tls import an_authority, client_context, master_files

RAFT = "orca-raft"
SECONDS = 60.0
"""Less than what a connection may take that only keeps silent."""
SPARE_BYTES = 48 << 20
"""What a master's memory may grow by meanwhile, for its own reasons."""


@dataclass
class Port:
    """One master's port. `intruder` is another master's certificate, and its id is the greater one:
    such a connection takes the place of any other.
    """

    cluster: RealCluster
    trace: Path

    def __post_init__(self) -> None:
        self._target, _, self._intruder = sorted(self.cluster.processes, key=self.cluster.id_of)

    @property
    def address(self) -> tuple[str, int]:
        host, port = str(self.cluster.processes[self._target].raft).split(":")
        return host, int(port)

    @property
    def intruder(self) -> tuple[str, str]:
        folder = self.cluster.folder / self._intruder / "tls"
        return str(folder / "master.pem"), str(folder / "ca.pem")

    @property
    def intruders_id(self) -> str:
        return self.cluster.id_of(self._intruder)

    async def call(
        self, own: str | None, authority: str, alpn: str = RAFT
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = client_context(own, authority)
        context.set_alpn_protocols([alpn])
        return await asyncio.open_connection(
            *self.address, ssl=context, server_hostname=MASTER_NAME
        )

    async def is_turned_away(
        self, own: str | None, authority: str, said: bytes, alpn: str = RAFT
    ) -> bool:
        """Whether the connection ends without an answer."""
        try:
            reader, writer = await self.call(own, authority, alpn)
        except (ssl.SSLError, ConnectionError):
            return True
        try:
            return await ends(reader, writer, said) == b""
        finally:
            writer.transport.abort()


async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes) -> bytes:
    """What comes until the other side ends it. Raises TimeoutError."""
    heard = b""
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            writer.write(said)
            await writer.drain()
            heard = await reader.read()
    return heard


class Bomb:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._trace),)


def framed(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    """Afterwards the same masters still run, know nothing new, and have not grown."""
    async with running(tmp_path / "orca", "process", 0, masters=3) as cluster:
        port = Port(cluster, tmp_path / "trace")
        masters = {name: psutil.Process(p.pid) for name, p in cluster.processes.items()}
        before = {name: process.memory_info().rss for name, process in masters.items()}
        async with cluster.client() as client:
            term = (await client.masters())["term"]
        yield port
        for name, process in masters.items():
            grown = process.memory_info().rss - before[name]
            assert grown < SPARE_BYTES, f"{name} has grown by {grown} bytes"
        async with asyncio.timeout(60), cluster.client() as client:
            found = await client.masters()
            while not all(master["connected"] for master in found["masters"]):
                await asyncio.sleep(0.05)
                found = await client.masters()
        assert found["term"] == term
        assert not port.trace.exists(), "something was executed"


async def test_who_has_no_masters_certificate_is_turned_away_cl_25_cl_07(
    port: Port, tmp_path: Path
) -> None:
    own, authority = port.intruder
    async with port.cluster.client() as client:
        token = parse(await client.join_token())
    worker = await join(port.cluster.api, token, "w", tmp_path / "w")
    workers = tmp_path / "worker.pem"
    workers.write_bytes(worker.certificate + worker.key)
    foreign, _ = master_files(an_authority(), port.intruders_id, tmp_path)
    hello = framed(codec.encode_hello(Hello(1, port.cluster.cluster_id(), port.intruders_id)))
    for name, shown in {"none": None, "worker": str(workers), "foreign": foreign}.items():
        for alpn in (RAFT, "http/1.1"):
            assert await port.is_turned_away(shown, authority, hello, alpn), f"{name} {alpn}"
    assert await port.is_turned_away(own, authority, hello, "h2"), "an unknown protocol"


async def test_what_is_no_tls_is_turned_away_cl_25(port: Port) -> None:
    for said in (os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", framed(pickle.dumps([1]))):
        reader, writer = await asyncio.open_connection(*port.address)
        assert b"HTTP" not in await ends(reader, writer, said)
        writer.transport.abort()


async def test_nothing_that_claims_or_inflates_to_a_lot_or_executes_is_taken_cl_26_cl_27(
    port: Port,
) -> None:
    """Before a hello, and after one of a master's own certificate."""
    own, authority = port.intruder
    hello = codec.encode_hello(Hello(1, port.cluster.cluster_id(), port.intruders_id))
    bomb = pickle.dumps(Bomb(port.trace))
    evil = (
        framed(os.urandom(1000)),
        framed(bomb),
        framed(zlib.compress(bomb)),
        framed(zlib.compress(bytes(300 << 20), 9)),
        framed(b"\x98\x01" + b"\xdd\xff\xff\xff\xff" * 6),
        (codec.MAX_FRAME_BYTES + 1).to_bytes(4, "big") + bytes(1 << 20),
        b"\xff\xff\xff\xff" + bytes(1 << 20),
    )
    for said in (*evil, framed(codec.encode_message(TimeoutNow(1))), framed(_of_another(hello))):
        assert await port.is_turned_away(own, authority, said)
    for said in evil:
        reader, writer = await port.call(own, authority)
        writer.write(framed(hello))
        async with asyncio.timeout(SECONDS):
            size = int.from_bytes(await reader.readexactly(4), "big")
            assert codec.decode_hello(await reader.readexactly(size)).node != port.intruders_id
        await ends(reader, writer, said)
        writer.transport.abort()


def _of_another(hello: bytes) -> bytes:
    """A hello whose name the certificate does not have."""
    told = codec.decode_hello(hello)
    return codec.encode_hello(Hello(told.version, told.cluster, "another"))


class Recorded:
    """A TLS client by hand, so that its records can be doubled, swapped and played again."""

    def __init__(self, port: Port) -> None:
        context = client_context(*port.intruder)
        context.set_alpn_protocols([RAFT])
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=MASTER_NAME)
        self._port = port
        self.sent: list[bytes] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self._port.address)
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self._send(writer, self._out.read())
                    self._in.write(await reader.read(1 << 16))
        self._send(writer, self._out.read())
        return reader, writer

    def _send(self, writer: asyncio.StreamWriter, raw: bytes) -> None:
        self.sent.append(raw)
        writer.write(raw)

    def record(self, said: bytes) -> bytes:
        """As it would go over the wire."""
        self._tls.write(said)
        return self._out.read()


async def test_records_that_a_proxy_doubles_swaps_or_plays_again_end_it_cl_29_cl_30(
    port: Port,
) -> None:
    hello = framed(codec.encode_hello(Hello(1, port.cluster.cluster_id(), port.intruders_id)))
    life = framed(b"")
    for is_swapped in (True, False):
        client = Recorded(port)
        reader, writer = await client.connect()
        one, other = client.record(hello), client.record(life)
        await ends(reader, writer, other + one if is_swapped else one + one)
        writer.transport.abort()
    client = Recorded(port)
    reader, writer = await client.connect()
    stream = b"".join([*client.sent, client.record(hello), client.record(life)])
    writer.transport.abort()
    reader, writer = await asyncio.open_connection(*port.address)
    await ends(reader, writer, stream)
    writer.transport.abort()
