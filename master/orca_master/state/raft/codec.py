"""The bytes that masters exchange and the bytes of a log entry: msgpack of closed types, no pickle.

Nothing here allocates by what a length inside the data claims: a frame's size is capped before it
is read (`transport`), and lists are packed into one byte string, because a msgpack list makes its
reader reserve room for as many items as its header says. Raft's messages are those of figure 2 and
figure 13 of the paper (Ongaro, Ousterhout 2014), pre-vote and TimeoutNow those of sections 9.6 and
3.10 of the thesis (Ongaro 2014); `round` is the read index of section 6.4.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

PROTOCOL_VERSION = 1
MAX_ENTRY_BYTES = 8 << 20
MAX_FRAME_BYTES = MAX_ENTRY_BYTES + (1 << 20)

# The library's kinds of commands (syncobj.py, _COMMAND_TYPE): the first byte of each.
REGULAR, NO_OP, MEMBERSHIP, VERSION = range(4)
NO_OP_COMMAND = bytes((NO_OP,))

Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Entry = tuple[bytes, int, int]
"""(command, index, term), as the library keeps them."""

_length = struct.Struct("<I")
_lead = struct.Struct("<IQ")


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What all have in common: the sender's term."""

    term: Number


class Append(_Message, frozen=True, tag=1):
    """AppendEntries. The entries follow `previous_index` without a gap (`pack_entries`)."""

    number: Number
    round: Number
    previous_index: Number
    previous_term: Number
    commit: Number
    entries: bytes


class AppendReply(_Message, frozen=True, tag=2):
    """`matches`: the log agrees with the leader's up to `next_index` - 1; else: try from there."""

    number: Number
    round: Number
    matches: bool
    next_index: Number


class PreVote(_Message, frozen=True, tag=3):
    """Would you vote for me in the term after mine? Changes nothing at the receiver."""

    attempt: Number
    last_index: Number
    last_term: Number


class PreVoteReply(_Message, frozen=True, tag=4):
    """`removed_by`: who removed the receiver from the cluster, if that is committed; else empty."""

    attempt: Number
    is_granted: bool
    removed_by: Annotated[str, msgspec.Meta(max_length=200)] = ""


class RequestVote(_Message, frozen=True, tag=5):
    """`is_transfer`: the leader itself asked for this election, so nobody protects him from it."""

    last_index: Number
    last_term: Number
    is_transfer: bool


class VoteReply(_Message, frozen=True, tag=6):
    is_granted: bool


class TimeoutNow(_Message, frozen=True, tag=7):
    """The leader asks the receiver to stand for election at once."""


class Piece(_Message, frozen=True, tag=8):
    """A bounded part of a snapshot; `number` counts from 0 within the snapshot of entry `index`."""

    round: Number
    index: Number
    index_term: Number
    number: Number
    data: bytes
    ends_part: bool
    is_last: bool


class PieceReply(_Message, frozen=True, tag=9):
    """`wanted`: the piece that comes next; 0 if the receiver begins anew."""

    round: Number
    index: Number
    wanted: Number
    is_installed: bool


Message = (
    Append
    | AppendReply
    | PreVote
    | PreVoteReply
    | RequestVote
    | VoteReply
    | TimeoutNow
    | Piece
    | PieceReply
)


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=0):
    """The first frame of a connection, from both ends."""

    version: Number
    cluster: Name
    node: Name


_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(Message)
_hello_decoder = msgspec.msgpack.Decoder(Hello)
_change_decoder = msgspec.msgpack.Decoder(tuple[Name, Name])
_version_decoder = msgspec.msgpack.Decoder(Number)


def encode_message(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_message(frame: bytes) -> Message:
    """Raises ValueError on anything that is not a whole message."""
    try:
        message: Message = _message_decoder.decode(frame)
    except msgspec.MsgspecError as error:
        raise ValueError(f"a frame is no message: {error}") from error
    return message


def encode_hello(hello: Hello) -> bytes:
    return _encoder.encode(hello)


def decode_hello(frame: bytes) -> Hello:
    """Raises ValueError on anything that is not a whole hello."""
    try:
        return _hello_decoder.decode(frame)
    except msgspec.MsgspecError as error:
        raise ValueError(f"a frame is no hello: {error}") from error


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """The commands and terms; the indexes follow from where the first one stands."""
    parts: list[bytes] = []
    for command, _, term in entries:
        parts.append(_lead.pack(len(command), term))
        parts.append(command)
    return b"".join(parts)


def unpack_entries(packed: bytes, *, first_index: int) -> list[Entry]:
    """Raises ValueError if the bytes are not whole entries."""
    entries: list[Entry] = []
    offset, index = 0, first_index
    while offset < len(packed):
        start = offset + _lead.size
        if start > len(packed):
            raise ValueError("an entry is cut off")
        size, term = _lead.unpack_from(packed, offset)
        offset = start + size
        if not size or size > MAX_ENTRY_BYTES or offset > len(packed):
            raise ValueError("an entry is cut off, empty or too large")
        entries.append((packed[start:offset], index, term))
        index += 1
    return entries


def encode_batch(proposals: Sequence[bytes]) -> bytes:
    """One command that carries all these proposals, in order."""
    parts = [bytes((REGULAR,))]
    for proposal in proposals:
        parts.append(_length.pack(len(proposal)))
        parts.append(proposal)
    return b"".join(parts)


def decode_batch(command: bytes) -> Iterator[bytes]:
    """Raises ValueError if the command is not a whole batch."""
    offset = 1
    while offset < len(command):
        if offset + _length.size > len(command):
            raise ValueError("a batch is cut off")
        (size,) = _length.unpack_from(command, offset)
        start = offset + _length.size
        offset = start + size
        if offset > len(command):
            raise ValueError("a batch is cut off")
        yield command[start:offset]


class LibraryCodec:
    """Stands where the library's own module `pickle` stood: the same two verbs, closed types.

    What the library itself encodes are membership requests, `[verb, node id, node]`, and the
    numbers of code versions. Anything else is refused.
    """

    @staticmethod
    def dumps(value: object, protocol: object = None) -> bytes:
        del protocol
        if isinstance(value, int):
            return _encoder.encode(value)
        if isinstance(value, list) and len(value) in (2, 3):
            return _encoder.encode((value[0], value[1]))
        raise TypeError(f"{type(value).__name__} is never written to the log")

    @staticmethod
    def loads(data: bytes) -> int | tuple[str, str]:
        """Raises ValueError on anything that `dumps` does not make."""
        try:
            if data[:1] and (data[0] & 0xF0) == 0x90:
                return _change_decoder.decode(data)
            return _version_decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise ValueError(f"neither a membership request nor a version: {error}") from error

    @staticmethod
    def to_bytes(data: bytes) -> bytes:
        return data
