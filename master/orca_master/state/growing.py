"""A log that begins on one master and becomes a log of several, while its process runs.

One master alone needs no agreement: the solo log. When the first other master is to be added, the
state is handed over to a Raft log of one member, in a moment in which no proposal is under way, and
that one grows. Above, this looks like an election: the leadership is away for an instant, in a
higher term. On disk, the Raft folder appears whole under its name or not at all, and once it is
there the solo folder counts no more; see `docs/adr/0013-growing-from-one-master.md`.
"""

import asyncio
from typing import Protocol

from orca_common.logs import get_logger
from orca_master.state.log import Leadership, Log, Machine
from orca_master.state.raft.log import RaftLog

log = get_logger("state")


class Conversion(Protocol):
    """How a solo log becomes a Raft log of one member."""

    async def __call__(self, machine: Machine, *, term: int) -> RaftLog:
        """`term` is what the solo log has reached. Raises LogFailed."""
        ...


class GrowingLog:
    """`Log`. `solo` is None where the Raft log is in force already; then `convert` is not used."""

    def __init__(
        self, solo: Log | None, raft: RaftLog | None, convert: Conversion | None = None
    ) -> None:
        first: Log | None = raft if raft is not None else solo
        assert first is not None, "one of the two"
        self._now = first
        self._raft = raft
        self._convert = convert
        self._machine: Machine
        self._under_way = 0
        self._idle = asyncio.Event()
        self._wanted = asyncio.Event()
        self._grown = asyncio.Event()
        self._is_changing = False
        if raft is not None:
            self._grown.set()

    async def start(self, machine: Machine) -> None:
        """See `Log.start`."""
        self._machine = machine
        await self._now.start(machine)

    async def run(self) -> None:
        """See `Log.run`."""
        if self._raft is None:
            await self._run_until_wanted()
            await self._grow()
        await self._now.run()

    async def propose(self, entry: bytes) -> bool:
        """See `Log.propose`. Waits while the log changes."""
        await self._settled()
        self._under_way += 1
        try:
            return await self._now.propose(entry)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def barrier(self) -> None:
        """See `Log.barrier`."""
        await self._settled()
        await self._now.barrier()

    @property
    def leadership(self) -> Leadership:
        now = self._now.leadership
        return Leadership(now.term, False, None) if self._is_changing else now

    async def leadership_change(self, seen: Leadership) -> Leadership:
        """See `Log.leadership_change`."""
        while (now := self.leadership) == seen:
            if self._is_changing:
                await self._grown.wait()
            else:
                await self._now.leadership_change(now)
        return now

    @property
    def age(self) -> float:
        return self._now.age

    async def close(self) -> None:
        await self._now.close()

    # Members.

    @property
    def raft(self) -> RaftLog | None:
        """None: one master alone, and its log is the solo log."""
        return self._raft

    async def grown(self) -> RaftLog:
        """The Raft log; a solo log becomes one first. `run` must be running."""
        self._wanted.set()
        await self._grown.wait()
        assert self._raft is not None
        return self._raft

    async def _settled(self) -> None:
        if self._is_changing:
            await self._grown.wait()

    async def _run_until_wanted(self) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self._now.run(), name="solo log")
            await self._wanted.wait()
            self._is_changing = True
            while self._under_way:
                self._idle.clear()
                await self._idle.wait()
            running.cancel()

    async def _grow(self) -> None:
        solo = self._now
        term = solo.leadership.term
        await solo.close()
        assert self._convert is not None
        raft = await self._convert(self._machine, term=term)
        await raft.start(self._machine)
        self._now = self._raft = raft
        self._is_changing = False
        self._grown.set()
        log.info("the log can have several masters now", term=term)
