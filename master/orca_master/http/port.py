"""The port between masters: mutual TLS, and one protocol or another by ALPN (RFC 7301).

Who connects has to show a certificate that `verify` accepts, before anything that it sends is
looked at. The Raft connections and forwarded HTTP share the port.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping

from orca_common.logs import get_logger

HANDSHAKE_SECONDS = 5.0

log = get_logger("port")


class NotAllowedHere(Exception):
    """Whoever connects may not; the text says why."""


Verify = Callable[[bytes], str]
"""The master's id in a certificate (DER); raises NotAllowedHere."""


class PeerPort:
    """`protocols`: what speaks for each ALPN name; a new object for each connection, or NotAllowedHere."""

    def __init__(
        self,
        tls: ssl.SSLContext,
        verify: Verify,
        protocols: Mapping[str, Callable[[], asyncio.BaseProtocol]],
    ) -> None:
        tls.set_alpn_protocols(list(protocols))
        self._tls = tls
        self.verify = verify
        self.protocols = protocols
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Newcomer(self),
            host,
            port,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()


class _Newcomer(asyncio.Protocol):
    """A connection until it is known what it speaks."""

    def __init__(self, port: PeerPort) -> None:
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        tls = transport.get_extra_info("ssl_object")
        try:
            self._port.verify(tls.getpeercert(binary_form=True) or b"")
            spoken = tls.selected_alpn_protocol()
            make = self._port.protocols.get(spoken)
            if make is None:
                raise NotAllowedHere(f"protocol {spoken!r} is not spoken here")
            protocol = make()
        except NotAllowedHere as error:
            log.warning(
                "a connection to the masters' port was closed",
                address=transport.get_extra_info("peername"),
                reason=str(error),
            )
            transport.abort()
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
