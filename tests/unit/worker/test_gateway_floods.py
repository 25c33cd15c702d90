"""Floods on the workers' port, in frames of HTTP/2 over real TLS, while another worker goes on."""

import asyncio
import contextlib
import dataclasses
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from gateways import Echo, a_gateway, greet, pair
from orca_common.real import real_env
from orca_master.tasks.gateway import STREAMS_PER_CONNECTION
from orca_proto import worker_pb2 as pb
from orca_proto import worker_pb2_grpc as rpc
from orca_proto.identity import MASTER_NAME
from orca_worker.certificate import NodeCertificate
from orca_worker.enrol import Membership
from orca_worker.grpc_link import GrpcConnector
from raft_tls import an_authority, client_context, worker_files

HEADERS, RST_STREAM, SETTINGS, PING = 1, 3, 4, 6
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GUARD_SECONDS = 120
ENDED = (OSError, asyncio.IncompleteReadError, ssl.SSLError)


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes((kind, flags))
        + struct.pack(">I", stream)
        + payload
    )


def request(stream: int) -> bytes:
    """The headers of a session, each literal and never indexed."""
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/orca.worker.v1.Workers/Session",
        ":authority": "orca-master",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(
        b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields.items()
    )
    return frame(HEADERS, block, flags=4, stream=stream)


def pings(count: int) -> bytes:
    return frame(PING, bytes(8)) * count


def settings(count: int) -> bytes:
    return frame(SETTINGS, struct.pack(">HI", 3, 100)) * count


def resets(count: int) -> bytes:
    cancel = struct.pack(">I", 8)
    return b"".join(
        request(stream) + frame(RST_STREAM, cancel, stream=stream)
        for stream in range(1, 2 * count, 2)
    )


def openings(count: int) -> bytes:
    return b"".join(request(stream) for stream in range(1, 2 * count, 2))


class Worker:
    """The one that goes on: it says something all the time, and hears the echo of each word."""

    def __init__(self, link) -> None:
        self._link = link
        self.heard = 0

    async def run(self) -> None:
        while True:
            await self._link.send(pb.FromWorker(report=pb.Report()))
            message = await self._link.receive()
            assert message is not None, "its stream has ended"
            assert message.masters.addresses == ["echo"]
            self.heard += 1
            await asyncio.sleep(0.01)

    async def hears_more(self) -> None:
        heard = self.heard
        async with asyncio.timeout(GUARD_SECONDS):
            while self.heard < heard + 5:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def a_busy_port(folder: Path) -> AsyncIterator[tuple[str, Echo, str, Worker]]:
    """(address, what serves, the authority's file, the honest worker)."""
    signer = dataclasses.replace(an_authority(), leaf_seconds=3600.0)
    own, authority = worker_files(signer, "w1", folder)
    worker_files(signer, "w2", folder)
    member = Membership("w1", "c1", [], signer.pem, *pair(Path(own)))
    held = NodeCertificate(real_env(threads=1), folder, member)
    random = real_env(threads=1).random
    async with (
        a_gateway(signer, folder) as (address, echo),
        GrpcConnector([address], held, random=random, keep=print).connect() as link,
    ):
        assert await greet(link) == "welcome"
        worker = Worker(link)
        async with asyncio.TaskGroup() as group:
            going_on = group.create_task(worker.run())
            yield address, echo, authority, worker
            await worker.hears_more()
            going_on.cancel()


async def flooded(address: str, tls: ssl.SSLContext, flood: bytes, *, wait_seconds: float) -> bool:
    """Whether the connection was closed, so long after all was written at the latest."""
    tls.check_hostname = False
    tls.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    except ENDED:
        return True

    async def read() -> None:
        with contextlib.suppress(*ENDED):
            while await reader.read(1 << 16):
                pass

    try:
        async with asyncio.timeout(GUARD_SECONDS + wait_seconds), asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            writer.write(PREFACE + frame(SETTINGS))
            for first in range(0, len(flood), 1 << 16):
                writer.write(flood[first : first + (1 << 16)])
                with contextlib.suppress(*ENDED):
                    await writer.drain()
            done, _ = await asyncio.wait({reading}, timeout=wait_seconds)
            reading.cancel()
        return bool(done)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "flood",
    [settings(20_000), resets(5_000), openings(10_000)],
    ids=["settings", "resets", "streams"],
)
async def test_a_flood_of_one_worker_disturbs_no_other_cl_22(tmp_path: Path, flood: bytes) -> None:
    async with a_busy_port(tmp_path) as (address, echo, authority, worker):
        tls = client_context(str(tmp_path / "worker-w2.pem"), authority)
        await flooded(address, tls, flood, wait_seconds=2.0)
        await worker.hears_more()
    assert echo.most_open <= 1 + STREAMS_PER_CONNECTION


async def test_who_floods_with_pings_is_dropped_cl_22(tmp_path: Path) -> None:
    async with a_busy_port(tmp_path) as (address, _, authority, worker):
        tls = client_context(str(tmp_path / "worker-w2.pem"), authority)
        assert await flooded(address, tls, pings(20_000), wait_seconds=GUARD_SECONDS)
        await worker.hears_more()


async def test_a_connection_has_only_so_many_sessions_cl_22(tmp_path: Path) -> None:
    async with a_busy_port(tmp_path) as (address, echo, authority, worker):
        certificate, key = pair(tmp_path / "worker-w2.pem")
        credentials = grpc.ssl_channel_credentials(Path(authority).read_bytes(), key, certificate)
        options = [("grpc.ssl_target_name_override", MASTER_NAME)]
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            calls = [rpc.WorkersStub(channel).Session() for _ in range(3 * STREAMS_PER_CONNECTION)]
            async with asyncio.timeout(GUARD_SECONDS):
                while echo.open < 1 + STREAMS_PER_CONNECTION:
                    await asyncio.sleep(0.01)
            await worker.hears_more()
            assert echo.most_open == 1 + STREAMS_PER_CONNECTION
            for call in calls:
                call.cancel()


async def test_a_flood_without_a_certificate_does_not_come_in_cl_22(tmp_path: Path) -> None:
    async with a_busy_port(tmp_path) as (address, echo, authority, worker):
        for _ in range(20):
            assert await flooded(
                address,
                client_context(None, authority),
                openings(100),
                wait_seconds=GUARD_SECONDS,
            )
        await worker.hears_more()
        assert echo.streams == 1
