"""The port between masters: a connection is given to what it speaks, or closed."""

import asyncio
import ssl
from pathlib import Path

import pytest

from orca_master.http.port import NotAllowedHere, PeerPort
from raft_tls import an_authority, client_context, master_files, server_context


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


def nobody() -> asyncio.BaseProtocol:
    raise NotAllowedHere("this master has no others yet")


def anybody(certificate: bytes) -> str:
    return "m1"


def no_one(certificate: bytes) -> str:
    raise NotAllowedHere("no master of this cluster")


async def said(port: PeerPort, client: ssl.SSLContext, spoken: str) -> bytes:
    """What comes back of a word; nothing when the connection is closed."""
    client.set_alpn_protocols([spoken])
    await port.start("127.0.0.1", 0)
    assert port._server is not None
    address = port._server.sockets[0].getsockname()
    try:
        reader, writer = await asyncio.open_connection(
            *address, ssl=client, server_hostname="master.orca.internal"
        )
        try:
            async with asyncio.timeout(60):
                writer.write(b"word")
                return await reader.read(4)
        except ConnectionError:
            return b""
        finally:
            writer.close()
    finally:
        await port.close()


@pytest.mark.parametrize(
    ("spoken", "verify", "expected"),
    [
        ("echo", anybody, b"word"),
        ("none-yet", anybody, b""),
        ("what", anybody, b""),
        ("echo", no_one, b""),
    ],
    ids=["spoken here", "nobody takes it", "unknown", "a stranger"],
)
async def test_a_connection_is_taken_or_closed(
    tmp_path: Path, spoken: str, verify, expected: bytes
) -> None:
    own, authority = master_files(an_authority(), "m1", tmp_path)
    protocols = {"echo": Echo, "none-yet": nobody}
    port = PeerPort(server_context(own, authority), verify, protocols)
    client = client_context(own, authority)
    try:
        assert await said(port, client, spoken) == expected
    except (ssl.SSLError, ConnectionError):
        assert expected == b""
