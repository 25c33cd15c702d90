"""Connections that say nothing, or too slowly, are not kept.

The framework waits for ever for the head of a request. Here a connection has so many seconds to
send a whole head, the first as each later one, or it is closed.
"""

import asyncio
from collections.abc import Callable

HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
"""Between two requests of one connection."""


class Doorman:
    """`accept` is asked for each connection; `arrived` and `answered` are told of its requests."""

    def __init__(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self.make = make
        self._deadlines: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def accept(self) -> asyncio.BaseProtocol:
        return _Arrival(self)

    def expect(self, transport: asyncio.BaseTransport, seconds: float) -> None:
        """A whole head has to come within so many seconds."""
        self.arrived(transport)
        if not transport.is_closing():
            loop = asyncio.get_running_loop()
            self._deadlines[transport] = loop.call_later(seconds, self._close, transport)

    def arrived(self, transport: asyncio.BaseTransport | None) -> None:
        deadline = self._deadlines.pop(transport, None) if transport is not None else None
        if deadline is not None:
            deadline.cancel()

    def answered(self, transport: asyncio.BaseTransport | None) -> None:
        if transport is not None:
            self.expect(transport, IDLE_SECONDS + HEAD_SECONDS)

    def close(self) -> None:
        """Close what still waits for a head."""
        for transport, deadline in list(self._deadlines.items()):
            deadline.cancel()
            self._close(transport)

    def _close(self, transport: asyncio.BaseTransport) -> None:
        self._deadlines.pop(transport, None)
        if isinstance(transport, asyncio.Transport):
            transport.abort()


class _Arrival(asyncio.Protocol):
    def __init__(self, doorman: Doorman) -> None:
        self._doorman = doorman

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        protocol = self._doorman.make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._doorman.expect(transport, HEAD_SECONDS)
