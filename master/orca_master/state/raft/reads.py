"""Linearizable reads by read index (thesis 6.4): prove that nobody else leads, then wait to apply.

A leader notes its commit index, sends a new round number with its next messages and waits until a
majority has repeated it. Reads that come while a round is on its way share the next one: a round
proves nothing to a read that arrived after it began.
"""

import asyncio
from dataclasses import dataclass

from orca_master.errors import NotLeader
from orca_master.state.raft.protocol import Engine


@dataclass(frozen=True, slots=True)
class _Round:
    number: int
    term: int
    index: int
    reads: "list[asyncio.Future[None]]"


class Reads:
    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._under_way: _Round | None = None

    def add(self) -> "asyncio.Future[None]":
        """A read, ended by `settle`: with None when it is confirmed and applied, or with NotLeader."""
        read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(read)
        return read

    @property
    def are_none(self) -> bool:
        return self._under_way is None and not self._waiting

    def begin_round(self, engine: Engine) -> None:
        """Before the leader's messages leave."""
        if self._waiting and self._under_way is None and engine.may_confirm_reads:
            engine.followers.round += 1
            self._under_way = _Round(
                engine.followers.round, engine.term, engine.commit_index, self._waiting
            )
            self._waiting = []

    def settle(self, engine: Engine) -> bool:
        """After the answers have come; True if another round should begin."""
        if not engine.leads:
            self.refuse("leadership was lost before the read was confirmed")
            return False
        current = self._under_way
        if current is None:
            return False
        if current.term != engine.term:
            self._under_way = None
            _refuse(current.reads, "leadership changed before the read was confirmed")
        elif (
            engine.followers.confirmed_round() >= current.number
            and engine.applied_index >= current.index
        ):
            self._under_way = None
            for read in current.reads:
                if not read.done():
                    read.set_result(None)
        return self._under_way is None and bool(self._waiting)

    def refuse(self, why: str) -> None:
        reads, self._waiting = self._waiting, []
        if self._under_way is not None:
            reads = [*self._under_way.reads, *reads]
            self._under_way = None
        _refuse(reads, why)


def _refuse(reads: "list[asyncio.Future[None]]", why: str) -> None:
    for read in reads:
        if not read.done():
            read.set_exception(NotLeader(why))
