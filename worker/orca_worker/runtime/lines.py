"""Output as whole lines: cutting streams and finding where the last lines of a file begin. Pure."""

from collections.abc import Callable, Iterator

CHUNK_BYTES = 64 * 1024
# A line longer than this is handed on in pieces rather than held in memory.
LONGEST_LINE_BYTES = 1024 * 1024


def whole_lines(pieces: Iterator[bytes], *, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Join the pieces into chunks of about `size` that end at a line's end, the very last aside."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        if len(buffer) < size:
            continue
        end = buffer.rfind(b"\n") + 1
        if not end and len(buffer) >= LONGEST_LINE_BYTES:
            end = len(buffer)
        if end:
            yield bytes(buffer[:end])
            del buffer[:end]
    if buffer:
        yield bytes(buffer)


class Lines:
    """Cuts what comes bit by bit into whole lines, without waiting for more of them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def take(self, piece: bytes) -> bytes:
        """The lines that are whole now, perhaps none."""
        self._buffer += piece
        end = self._buffer.rfind(b"\n") + 1
        if not end and len(self._buffer) >= LONGEST_LINE_BYTES:
            end = len(self._buffer)
        whole = bytes(self._buffer[:end])
        del self._buffer[:end]
        return whole

    def rest(self) -> bytes:
        """What has no end, once nothing more comes."""
        left = bytes(self._buffer)
        self._buffer.clear()
        return left


def tail_offset(
    read_at: Callable[[int, int], bytes], size: int, tail: int, *, first: int = 0
) -> int:
    """Where the last `tail` lines of a file of `size` bytes begin; `read_at(count, offset)`.

    Not before `first`, where a line begins. Reads backwards only as far as it must. A last line
    without its newline counts as a line.
    """
    if tail <= 0 or size <= first:
        return size
    end = size
    # The newline that ends the last line does not begin another one.
    wanted = tail + (read_at(1, size - 1) == b"\n")
    while end > first:
        start = max(first, end - CHUNK_BYTES)
        block = read_at(end - start, start)
        found = block.count(b"\n")
        if found >= wanted:
            position = len(block)
            for _ in range(wanted):
                position = block.rfind(b"\n", 0, position)
            return start + position + 1
        wanted -= found
        end = start
    return first
