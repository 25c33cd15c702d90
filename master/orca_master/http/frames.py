"""A check that the framework leaves out: a client masks its frames (RFC 6455, section 5.1)."""

from collections.abc import Callable

from aiohttp import WebSocketError, WSCloseCode
from aiohttp.http_websocket import WebSocketReader

_MASK_BIT, _SIZE_BITS = 0x80, 0x7F
_MORE_BYTES = {126: 2, 127: 8}
"""How many bytes more the size has, by what stands in its place."""
_MASK_BYTES = 4


class MaskedFrames:
    """Stands before the framework's parser of a connection, and passes on what comes.

    `refuse` gets the error that ends the connection.
    """

    def __init__(self, parser: WebSocketReader, refuse: Callable[[WebSocketError], None]) -> None:
        self._parser = parser
        self._refuse = refuse
        self._head = b""
        self._rest = 0

    def feed_eof(self) -> None:
        self._parser.feed_eof()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self._are_masked(data):
            return self._parser.feed_data(data)
        self._refuse(WebSocketError(WSCloseCode.PROTOCOL_ERROR, "a frame without a mask"))
        return True, b""

    def _are_masked(self, data: bytes) -> bool:
        data = self._head + data
        at = min(self._rest, len(data))
        self._rest -= at
        while len(data) - at >= 2:
            second = data[at + 1]
            if not second & _MASK_BIT:
                return False
            size = second & _SIZE_BITS
            more = _MORE_BYTES.get(size, 0)
            head = 2 + more + _MASK_BYTES
            if len(data) - at < head:
                break
            if more:
                size = int.from_bytes(data[at + 2 : at + 2 + more], "big")
            end = at + head + size
            self._rest = max(0, end - len(data))
            at = min(end, len(data))
        self._head = data[at:]
        return True
