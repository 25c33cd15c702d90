"""A log that begins on one master and becomes a log of several, while its process runs.

One master alone needs no agreement: the solo log. When the first other master is to be added, the
state is handed over to a Raft log of one member, in a moment in which no proposal is under way, and
that one grows. Above, this looks like an election: the leadership is away for an instant, in a
higher term. On disk, the Raft folder appears whole under its name or not at all, and once it is
there the solo folder counts no more; see `docs/adr/0013-growing-from-one-master.md`.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import Conflict, StorageFull
from orca_master.state.log import Leadership, Log, Machine
from orca_master.state.raft.log import RaftLog

AGAIN_SECONDS = 30.0
"""After a conversion that failed."""

log = get_logger("state")


class Conversion(Protocol):
    """How a solo log becomes a Raft log of one member."""

    async def __call__(self, machine: Machine, *, term: int) -> RaftLog:
        """`term` is what the solo log has reached. Raises OSError, StorageFull: nothing has changed."""
        ...


class GrowingLog:
    """`Log`. Begins with the solo log that `solo` makes, or with `raft` where that is in force."""

    def __init__(
        self,
        env: Env,
        *,
        raft: RaftLog | None = None,
        solo: Callable[[], Log] | None = None,
        convert: Conversion | None = None,
    ) -> None:
        assert (raft is None) == (solo is not None) == (convert is not None), "one of the two"
        self._env = env
        self._solo = solo
        self._convert = convert
        self._raft = raft
        self._now: Log = raft if raft is not None else solo()  # type: ignore[misc]
        self._machine: Machine
        self._under_way = 0
        self._idle = asyncio.Event()
        self._wanted = asyncio.Event()
        self._is_changing = False
        self._changed = asyncio.Event()
        self._failure = ""
        self._not_before = float("-inf")

    async def start(self, machine: Machine) -> None:
        """See `Log.start`."""
        self._machine = machine
        await self._now.start(machine)

    async def run(self) -> None:
        """See `Log.run`."""
        while self._raft is None:
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
                await self._changed.wait()
            else:
                await self._now.leadership_change(now)
        return now

    @property
    def age(self) -> float:
        return self._now.age

    @property
    def stalled(self) -> float:
        """See `Log.stalled`. A change of the log writes a whole state: it takes its time."""
        return 0.0 if self._is_changing else self._now.stalled

    async def close(self) -> None:
        await self._now.close()

    # Members.

    @property
    def raft(self) -> RaftLog | None:
        """None: one master alone, and its log is the solo log."""
        return self._raft

    async def grown(self) -> RaftLog:
        """The Raft log; a solo log becomes one first, while `run` is running.

        Raises Conflict if that is not possible now; the solo log then goes on.
        """
        if self._raft is None and self._env.monotonic() >= self._not_before:
            self._failure = ""
            self._wanted.set()
            await self._changed.wait()
        if self._raft is None:
            raise Conflict(f"this master's log cannot take others in: {self._failure}")
        return self._raft

    async def _settled(self) -> None:
        if self._is_changing:
            await self._changed.wait()

    async def _run_until_wanted(self) -> None:
        self._changed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self._now.run(), name="solo log")
            await self._wanted.wait()
            self._wanted.clear()
            self._is_changing = True
            while self._under_way:
                self._idle.clear()
                await self._idle.wait()
            running.cancel()

    async def _grow(self) -> None:
        term = self._now.leadership.term
        await self._now.close()
        assert self._convert is not None
        try:
            self._now = self._raft = await self._convert(self._machine, term=term)
            log.info("the log can have several masters now", term=term)
        except (OSError, StorageFull) as error:
            log.error("the log was not converted; it goes on as it was", reason=str(error))
            self._failure = str(error)
            self._not_before = self._env.monotonic() + AGAIN_SECONDS
            assert self._solo is not None
            self._now = self._solo()
        await self._now.start(self._machine)
        self._is_changing = False
        self._changed.set()
