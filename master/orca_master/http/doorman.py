"""Connections that say nothing, or too slowly, are not kept.

The framework waits for ever for the head of a request. Here a connection has so many seconds to
send a whole head, the first as each later one, or it is closed. One that does not read what it asked
for is closed by the system: answers that fit in its buffers have left, as far as we know.
"""

import asyncio
import socket
from collections.abc import Callable

HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
"""Between two requests of one connection."""
UNREAD_SECONDS = 20
"""How long the system keeps what a client does not take from it."""
LOOK_EVERY_SECONDS = 0.5


class Doorman:
    """`accept` is asked for each connection; `arrived` and `answered` are told of its requests.

    One timer looks after all connections: one for each request would cost more than the request.
    """

    def __init__(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self.make = make
        self._due: dict[asyncio.BaseTransport, float] = {}
        self._look: asyncio.TimerHandle | None = None

    def accept(self) -> asyncio.BaseProtocol:
        return _Arrival(self)

    def expect(self, transport: asyncio.BaseTransport, seconds: float) -> None:
        """A whole head has to come within so many seconds."""
        loop = asyncio.get_running_loop()
        self._due[transport] = loop.time() + seconds
        if self._look is None:
            self._look = loop.call_later(LOOK_EVERY_SECONDS, self._close_late)

    def arrived(self, transport: asyncio.BaseTransport | None) -> None:
        if transport is not None:
            self._due.pop(transport, None)

    def answered(self, transport: asyncio.BaseTransport | None) -> None:
        if transport is not None and not transport.is_closing():
            self.expect(transport, IDLE_SECONDS + HEAD_SECONDS)

    def close(self) -> None:
        """Close what still waits for a head."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for transport in self._due:
            _abort(transport)
        self._due.clear()

    def _close_late(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        over = [t for t, due in self._due.items() if due <= now or t.is_closing()]
        for transport in over:
            del self._due[transport]
            _abort(transport)
        again = bool(self._due)
        self._look = loop.call_later(LOOK_EVERY_SECONDS, self._close_late) if again else None


class _Arrival(asyncio.Protocol):
    def __init__(self, doorman: Doorman) -> None:
        self._doorman = doorman

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        _give_up_unread(transport)
        protocol = self._doorman.make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._doorman.expect(transport, HEAD_SECONDS)


def _give_up_unread(transport: asyncio.Transport) -> None:
    """Linux only; elsewhere what has left for the system stays there until the connection is idle."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        of_system: socket.socket = transport.get_extra_info("socket")
        of_system.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()
