"""The bytes of the log's files: a file header, then records. Pure functions, no files.

    header: magic (8) | salt (8) | index (u64) | CRC-32 of all before (u32)
    record: payload length (u32) | CRC-32 (u32) | index (u64) | term (u64) | payload

All numbers are little-endian. A record's CRC covers everything but itself and is seeded by its
file's header, whose salt is random: a payload that imitates a record, or a block left over from
another file, never passes for one. Used by `segments` (magic LOG) and `snapshots` (magic SNAPSHOT).
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

LOG_MAGIC = b"ORCALOG1"
SNAPSHOT_MAGIC = b"ORCASNP1"
SALT_BYTES = 8
MAX_PAYLOAD_BYTES = 1 << 30

_header = struct.Struct("<8s8sQ")
_checksum = struct.Struct("<I")
_lead = struct.Struct("<II")
_place = struct.Struct("<QQ")

HEADER_BYTES = _header.size + _checksum.size
RECORD_BYTES = _lead.size + _place.size


@dataclass(frozen=True, slots=True)
class Header:
    index: int
    seed: int


@dataclass(frozen=True, slots=True)
class Record:
    """`end` is the offset of the byte after it."""

    index: int
    term: int
    payload: bytes
    end: int


def encode_header(magic: bytes, salt: bytes, index: int) -> bytes:
    body = _header.pack(magic, salt, index)
    return body + _checksum.pack(crc32(body))


def decode_header(magic: bytes, data: bytes) -> Header | None:
    """None if the data does not begin with a whole header of this kind."""
    if len(data) < HEADER_BYTES or not data.startswith(magic):
        return None
    body = data[: _header.size]
    (checksum,) = _checksum.unpack_from(data, _header.size)
    if crc32(body) != checksum:
        return None
    return Header(index=_header.unpack(body)[2], seed=seed_of(data))


def seed_of(header: bytes) -> int:
    """What the checksums of the records under this header are seeded with."""
    return crc32(header[:HEADER_BYTES])


def encode_record(seed: int, *, index: int, term: int, payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} fit")
    place = _place.pack(index, term)
    return _lead.pack(len(payload), _crc(seed, len(payload), place, payload)) + place + payload


def decode_record(seed: int, data: bytes, offset: int) -> Record | None:
    """The record at the offset; None if there is none that is whole and unharmed."""
    start = offset + RECORD_BYTES
    if start > len(data):
        return None
    length, checksum = _lead.unpack_from(data, offset)
    end = start + length
    if length > MAX_PAYLOAD_BYTES or end > len(data):
        return None
    payload = data[start:end]
    if _crc(seed, length, data[offset + _lead.size : start], payload) != checksum:
        return None
    index, term = _place.unpack_from(data, offset + _lead.size)
    return Record(index, term, payload, end)


def decode_records(seed: int, data: bytes) -> Iterator[Record]:
    """The records after the header, up to the first that is not whole."""
    offset = HEADER_BYTES
    while (record := decode_record(seed, data, offset)) is not None:
        yield record
        offset = record.end


def read_records(seed: int, read: Callable[[int], bytes]) -> Iterator[Record]:
    """As `decode_records`, from a file read up to the end of its header: one record in memory."""
    offset = HEADER_BYTES
    while len(lead := read_fully(read, RECORD_BYTES)) == RECORD_BYTES:
        length, _ = _lead.unpack_from(lead)
        if length > MAX_PAYLOAD_BYTES:
            return
        record = decode_record(seed, lead + read_fully(read, length), 0)
        if record is None:
            return
        offset += record.end
        yield Record(record.index, record.term, record.payload, offset)


def read_fully(read: Callable[[int], bytes], size: int) -> bytes:
    """So many bytes, fewer only at the end of the file."""
    parts: list[bytes] = []
    while size and (part := read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def find_record(seed: int, data: bytes, offset: int) -> int | None:
    """Where the first whole record at or after the offset begins, at whatever byte."""
    for at in range(offset, len(data) - RECORD_BYTES + 1):
        if decode_record(seed, data, at) is not None:
            return at
    return None


def _crc(seed: int, length: int, place: bytes, payload: bytes) -> int:
    return crc32(payload, crc32(place, crc32(_checksum.pack(length), seed)))
