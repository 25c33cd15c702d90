"""Events that only grow in number, and the chain that tells whether they are all there.

An entry of the log carries events beside its rows. They are not kept in the state: the state holds
only the `Head`, where the chain stands. So each master can prove what it was given by another.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple, TypeVar

import msgspec

E = TypeVar("E", bound=msgspec.Struct)

CHAIN_BYTES = 32

_encoder = msgspec.msgpack.Encoder()


class Record(NamedTuple):
    """What a transaction wrote: what happened, to what, and the msgpack bytes of a struct."""

    kind: str
    subject: str
    data: bytes


class Event(NamedTuple):
    """A record in its place: the n-th (1, 2, …) of the entry that made this version of the state.

    `chain` is the chain's value after it.
    """

    version: int
    n: int
    kind: str
    subject: str
    data: bytes
    chain: bytes

    def decode(self, event_type: type[E]) -> E:
        """Raises msgspec.MsgspecError if it is not of that type."""
        return msgspec.msgpack.decode(self.data, type=event_type)


class Head(NamedTuple):
    """The version that the last event came with, and the chain's value after that event."""

    version: int
    chain: bytes


BEGINNING = Head(0, bytes(CHAIN_BYTES))


def link(chain: bytes, version: int, n: int, record: Record) -> bytes:
    """The chain's value after the record: a hash over the value before it, its place and itself."""
    payload = _encoder.encode((chain, version, n, *record))
    return blake2b(payload, digest_size=CHAIN_BYTES, person=b"orca-history").digest()


def placed(before: Head, version: int, records: Sequence[Record]) -> list[Event]:
    """The records of the entry that makes `version`, in their places behind `before`."""
    chain = before.chain
    events = []
    for n, record in enumerate(records, 1):
        chain = link(chain, version, n, record)
        events.append(Event(version, n, *record, chain))
    return events


def head_after(before: Head, events: Sequence[Event]) -> Head:
    return Head(events[-1].version, events[-1].chain) if events else before


def verified(before: bytes, events: Iterable[Event]) -> Iterator[Event]:
    """The events as long as they follow one another from the chain's value `before`.

    Raises ValueError at the first that does not.
    """
    chain = before
    for event in events:
        chain = link(chain, event.version, event.n, Record(event.kind, event.subject, event.data))
        if chain != event.chain:
            raise ValueError(
                f"event {event.version}.{event.n} does not follow from those before it"
            )
        yield event
