"""The log: what the store stands on. One process (`solo`) or several masters (Raft) implement it.

An entry is opaque bytes. The log makes it durable, agrees on its place in the one order, and hands
it to the machine. Nothing above `state/` knows which log runs. Why it has this form:
`docs/adr/0003-the-log-protocol.md`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads. `term` grows with every election; orders to workers carry it."""

    term: int
    is_leader: bool
    leader: str | None


class Machine(Protocol):
    """What the log drives: the store. None of these may raise for any entry the log once accepted."""

    def apply(self, entry: bytes) -> bool:
        """Apply a committed entry; False if it was made from a state that was not the latest.

        A False entry changed nothing, on every master alike.
        """
        ...

    def capture(self) -> Iterator[bytes]:
        """The whole state as it is now, in parts of bounded size, made lazily from an immutable view."""
        ...

    def restore(self, parts: Iterable[bytes]) -> None:
        """Replace the state by captured parts. Raises ValueError if they are not a whole capture."""
        ...


class Log(Protocol):
    async def start(self, machine: Machine) -> None:
        """Recover: restore the newest snapshot, apply every entry after it. Called once.

        Raises `DamagedLog` (it refuses to start on damage), `FolderInUse`.
        """
        ...

    async def run(self) -> None:
        """The log's background work, until cancelled. It ends by itself only with an exception."""
        ...

    async def propose(self, entry: bytes) -> bool:
        """Commit an entry; returns what `Machine.apply` said once it is durable and applied here.

        Raises NotLeader and StorageFull (it is certain that nothing changed) and OutcomeUnknown.
        """
        ...

    async def barrier(self) -> None:
        """Return once everything committed before the call is applied here: a linearizable read.

        Raises NotLeader when that cannot be confirmed.
        """
        ...

    @property
    def leadership(self) -> Leadership: ...

    async def leadership_change(self, seen: Leadership) -> Leadership:
        """Wait until leadership differs from what was seen."""
        ...

    async def close(self) -> None:
        """Make durable what is not, let go of files and sockets."""
        ...


class DamagedLog(Exception):
    """The data on disk is not what was written. The text says what is damaged and what to do."""


class FolderInUse(Exception):
    """Another process owns the data folder, or it belongs to another cluster or member."""
