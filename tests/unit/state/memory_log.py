"""A log that commits in memory, at once or when it is told to."""

import asyncio

from orca_master.state.log import Leadership, Machine


class MemoryLog:
    """Commits in memory. `fails` are raised, one for each proposal; `gate` holds proposals back."""

    def __init__(self) -> None:
        self.machine: Machine
        self.entries: list[bytes] = []
        self.fails: list[BaseException] = []
        self.barriers = 0
        self.barrier_fails: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.leadership = Leadership(1, True, "m1")

    async def start(self, machine: Machine) -> None:
        self.machine = machine

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def propose(self, entry: bytes) -> bool:
        await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        self.entries.append(entry)
        return self.machine.apply(bytes(bytearray(entry)))  # other bytes, as from another master

    async def barrier(self) -> None:
        self.barriers += 1
        if self.barrier_fails:
            raise self.barrier_fails.pop(0)

    async def leadership_change(self, seen: Leadership) -> Leadership:
        return self.leadership

    async def close(self) -> None:
        pass
