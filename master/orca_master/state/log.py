"""The log: what the store stands on. One process (`solo`) or several masters (Raft) implement it.

An entry is opaque bytes. The log makes it durable, agrees on its place in the one order, and hands
it to the machine. Nothing above `state/` knows which log runs. Why it has this form:
`docs/adr/0003-the-log-protocol.md`.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol


class Leadership(NamedTuple):
    """Who leads. `term` grows with every election; orders to workers carry it.

    `is_leader` turns True only when every entry of earlier terms is applied here, so the state that
    a new leader decides on is the latest one. It may stay True for a while on a master that was cut
    off: only `Log.propose` and `Log.barrier` prove anything.
    """

    term: int
    is_leader: bool
    leader: str | None


class Machine(Protocol):
    """What the log drives: the store. Calls come one at a time, from the event loop.

    Entries of other masters come at any time, also while a proposal of this one is under way.
    An exception from `apply` stops the log (`LogFailed`): to skip an entry is to diverge.
    """

    def apply(self, entry: bytes) -> bool:
        """Apply a committed entry; False if it was made from a state that was not the latest.

        A False entry changed nothing, on every master alike.
        """
        ...

    def capture(self) -> Iterator[bytes]:
        """The whole state as it is now, in parts of bounded size.

        The view is taken by the call itself; the parts are made from it later, one at a time, while
        entries go on being applied.
        """
        ...

    def restoring(self) -> "Restoring":
        """For a captured state, at the start or later, when a snapshot arrives."""
        ...


class Restoring(Protocol):
    """A captured state on its way into a machine, which has its present one until the end.

    It may be given up at any time. See `restore` for all of it at once.
    """

    def take(self, part: bytes) -> None:
        """The next part of the capture. Raises ValueError if it is none."""
        ...

    def replace(self) -> None:
        """That was all: the machine has this state now, at once.

        Raises ValueError if the parts were not a whole capture; then the machine is as it was.
        """
        ...


def restore(machine: Machine, parts: Iterable[bytes]) -> None:
    """Replace the machine's state by captured parts. Raises ValueError, and what reading them raises."""
    restoring = machine.restoring()
    for part in parts:
        restoring.take(part)
    restoring.replace()


class Log(Protocol):
    async def start(self, machine: Machine) -> None:
        """Recover: restore the newest snapshot, apply every entry after it. Called once.

        Raises `DamagedLog` (it refuses to start on damage), `FolderInUse`, `LogFailed`, and
        `StorageFull` if the new term cannot be made durable.
        """
        ...

    async def run(self) -> None:
        """The log's work, until cancelled; no proposal ends without it.

        It ends by itself only with an exception, `LogFailed` among them: then the process must stop.
        """
        ...

    async def propose(self, entry: bytes) -> bool:
        """Commit an entry (not empty); returns what `Machine.apply` said once it is durable and applied.

        False: superseded, nothing changed. Raises NotLeader and StorageFull (it is certain that
        nothing changed), OutcomeUnknown (it may still be applied, at any later time) and LogFailed.
        Ends soon after leadership is lost, because the one writer waits for it. Never forwards.
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

    @property
    def age(self) -> float:
        """Seconds: what is applied here is the latest of at most so long ago, infinite if never.

        Next to nothing on a leader that its followers answer.
        """
        ...

    @property
    def stalled(self) -> float:
        """Seconds for which the log has been at one piece of its work: a disk that hangs shows here."""
        ...

    async def close(self) -> None:
        """Make durable what is not, let go of files and sockets."""
        ...


class DamagedLog(Exception):
    """The data on disk is not what was written. The text says what is damaged and what to do."""


class LogFailed(Exception):
    """The log can neither go on nor undo what it began (a failed fsync, say). Stop the process."""


class FolderInUse(Exception):
    """Another process owns the data folder, or it belongs to another cluster or member."""
