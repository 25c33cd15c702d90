"""What waits for a turn of the driver: proposals, changes of the members, and errands."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orca_master.errors import OutcomeUnknown
from orca_master.state.raft.members import Configuration

BATCH_BYTES = 1 << 20


@dataclass(slots=True)
class Proposal:
    entry: bytes
    answer: "asyncio.Future[bool]"
    asked_at: float

    def refuse(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


Edit = Callable[[Configuration], Configuration]
"""From the members in force to others; raises Conflict."""


@dataclass(slots=True)
class Change:
    edit: Edit
    proposal: Proposal


@dataclass(slots=True)
class Errand:
    work: Callable[[], Any]
    done: "asyncio.Future[Any]"
    result: tuple[Any] | None = None
    """Set once it has run; its caller hears of it when the journal is durable."""


def refuse_unknown(proposals: list[Proposal]) -> None:
    for proposal in proposals:
        proposal.refuse(
            OutcomeUnknown(
                "leadership was lost while the change was under way; look, then ask again"
            )
        )


def next_batch(waiting: deque[Proposal]) -> tuple[list[Proposal], int]:
    """Take off what makes one entry, at least one proposal; and its bytes."""
    batch: list[Proposal] = []
    size = 0
    while waiting:
        proposal = waiting[0]
        if batch and size + len(proposal.entry) > BATCH_BYTES:
            break
        waiting.popleft()
        if not proposal.answer.done():  # else its caller has gone away
            batch.append(proposal)
            size += len(proposal.entry)
    return batch, size
