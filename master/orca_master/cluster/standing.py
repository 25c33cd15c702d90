"""What a node's silence means. Pure: when it was last heard of in, a word and its reason out.

    ready         heard of within half the TTL
    suspect       its stream is open, but nothing has come for half the TTL
    disconnected  its stream is gone, and the TTL is not over
    down          it was silent for the whole TTL: a row of the state, see `liveness`

The first three are what this leader observes; they cost no commit and end with its leadership.
"""

from dataclasses import dataclass
from enum import StrEnum

from orca_master.cluster.pace import Pace


class Word(StrEnum):
    READY = "ready"
    SUSPECT = "suspect"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class Contact:
    """Monotonic seconds. `ended`: when the stream was lost; None while there is one."""

    heard: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """`age`: seconds since it is so, None for what the row itself says; `is_over`: the TTL is over."""

    word: Word
    age: float | None
    reason: str
    is_over: bool


def standing(contact: Contact, *, now: float, pace: Pace) -> Standing:
    """Where a node stands whose row says ready."""
    silent = now - contact.heard
    is_over = silent >= pace.ttl
    if contact.ended is not None:
        reason = f"its worker has had no connection for {now - contact.ended:.1f} s"
        return Standing(Word.DISCONNECTED, now - contact.ended, reason, is_over)
    if silent < pace.ttl / 2:
        return Standing(Word.READY, None, "", is_over=False)
    reason = f"its worker has said nothing for {silent:.1f} s"
    return Standing(Word.SUSPECT, silent - pace.ttl / 2, reason, is_over)
