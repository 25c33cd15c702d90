"""What the cluster asks of the log about its members. Which log answers is not known here."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Member:
    """A master as the log has it. `behind` (entries) and `heard_seconds` ago: only the leader knows.

    `address` is `host:port` of the port between masters. Who is no voter is learning: it gets
    everything and decides nothing.
    """

    id: str
    address: str
    is_voter: bool
    is_connected: bool = False
    behind: int | None = None
    heard_seconds: float | None = None


class Membership(Protocol):
    """One change at a time. All raise NotLeader, Conflict (not now; the text says why) and OutcomeUnknown."""

    def members(self) -> tuple[Member, ...]:
        """Those in force, this master among them."""
        ...

    async def add(self, id: str, address: str) -> None:
        """As a learner."""
        ...

    async def promote(self, id: str) -> None:
        """Make a learner that has caught up a voter."""
        ...

    async def remove(self, id: str) -> None: ...
    async def readdress(self, id: str, address: str) -> None: ...

    async def transfer(self, to: str | None = None) -> bool:
        """Give leadership to this voter (its id), or the one that is furthest; False if none took it."""
        ...
