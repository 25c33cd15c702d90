"""Every state that a power loss may leave, and what must hold in each: the oracle of the crash tests.

A workload is traced: before every change of what is durable, all crash states (or, where there are
too many, a seeded choice of them) are noted with the entries acknowledged by then. Each is then
started on: nothing acknowledged may be missing, nothing half may be there, terms must have grown,
and the log must go on from it through another kill and another power loss.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from recorder import Recorder, a_log, numbered, running

from orca_master.errors import StorageFull
from orca_master.state.log import DamagedLog
from orca_master.state.solo import SoloLog
from sim.disk import Image, SimDisk
from sim.env import sim_env

OPTIONS = {"segment_bytes": 150, "snapshot_every_entries": 6}

Disks = Callable[[Image | None], SimDisk]
Logs = Callable[..., SoloLog]


class Violation(AssertionError):
    """A promise of the log was broken."""


@dataclass(slots=True)
class Trace:
    """`states`: an image, as sorted items, and the most entries acknowledged before it arose."""

    entries: list[bytes]
    states: dict[tuple[tuple[str, bytes], ...], int] = field(default_factory=dict)
    acknowledged: int = 0
    states_per_point: int = 400

    def watch(self, disk: SimDisk) -> None:
        chance = random.Random(7)

        def note() -> None:
            for image in disk.some_crash_states(self.states_per_point, chance):
                key = tuple(sorted(image.items()))
                self.states[key] = max(self.states.get(key, 0), self.acknowledged)

        disk.before_change = note


async def trace(
    entries: list[bytes],
    *,
    disks: Disks = SimDisk,
    logs: Logs = a_log,
    restart_after: int | None = None,
    full_after: int | None = None,
    states_per_point: int = 400,
    groups: random.Random | None = None,
) -> Trace:
    """Propose the entries one by one from an empty disk; note all that a power loss may leave.

    `restart_after`: the process is killed and started anew after so many entries. `full_after`: the
    disk is full in the middle of the entry with this number, which is then proposed again. With
    `groups` several are often proposed at once, and written together.
    """
    disk = disks(None)
    found = Trace(entries, states_per_point=states_per_point)
    found.watch(disk)
    first = len(entries) if restart_after is None else restart_after
    for part in (entries[:first], entries[first:]):
        log = logs(sim_env(len(part), disk), **OPTIONS)
        async with running(log, Recorder()):
            for group in _grouped(part, groups):
                if full_after is not None and found.acknowledged >= full_after:
                    await _propose_on_a_full_disk(disk, log, group[0])
                    full_after = None
                await asyncio.gather(*(_propose(found, log, entry) for entry in group))
                await asyncio.sleep(0)
        disk.kill()
    disk.before_change()
    return found


def _grouped(entries: list[bytes], chance: random.Random | None) -> Iterator[list[bytes]]:
    while entries:
        size = 1 if chance is None else chance.choice((1, 1, 2, 5))
        yield entries[:size]
        entries = entries[size:]


async def _propose(found: Trace, log: SoloLog, entry: bytes) -> None:
    await log.propose(entry)
    found.acknowledged += 1


async def _propose_on_a_full_disk(disk: SimDisk, log: SoloLog, entry: bytes) -> None:
    disk.capacity = sum(map(len, disk.image().values())) + 10
    try:
        await log.propose(entry)
    except StorageFull:
        disk.capacity = None
    else:
        raise Violation("a full disk took an entry")


async def check_seed(seed: int) -> int:
    """Trace a workload that is made of the seed, and start on all its states; how many there were."""
    chance = random.Random(seed)
    count = chance.randint(8, 60)
    found = await trace(
        numbered(count, size=chance.choice((4, 12, 22, 60, 300))),
        restart_after=chance.choice((None, chance.randrange(count))),
        full_after=chance.choice((None, chance.randrange(count))),
        groups=chance,
    )
    try:
        return await check(found, every=20)
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}. Replay it with --seed {seed}") from violation


async def check(found: Trace, *, disks: Disks = SimDisk, logs: Logs = a_log, every: int = 1) -> int:
    """Start on the states (every n-th goes through a second life too). Returns how many there were."""
    for number, (items, acknowledged) in enumerate(found.states.items()):
        image = dict(items)
        disk = disks(image)
        after = await _start(disk, logs, number)
        _check_entries(found.entries, after.entries, acknowledged)
        if number % every == 0:
            await _second_life(disk, disks, logs, after, number)
    return len(found.states)


@dataclass(slots=True)
class _Found:
    entries: list[bytes]
    term: int


async def _start(disk: SimDisk, logs: Logs, seed: int) -> _Found:
    machine = Recorder()
    log = logs(sim_env(seed, disk), **OPTIONS)
    try:
        await log.start(machine)
    except DamagedLog as damage:
        raise Violation(f"refused after nothing but a power loss: {damage}") from damage
    await log.close()
    return _Found(machine.entries, log.leadership.term)


async def _second_life(
    disk: SimDisk, disks: Disks, logs: Logs, before: _Found, number: int
) -> None:
    """What a start has shown must stay, through a power loss, more entries, a kill and another."""
    disk.crash(random.Random(number))
    machine = Recorder()
    log = logs(sim_env(number + 1, disk), **OPTIONS)
    try:
        async with running(log, machine):
            if machine.entries != before.entries:
                raise Violation("what a start had shown was different after a power loss")
            if log.leadership.term <= before.term:
                raise Violation("a term was used twice")
            for entry in (b"more", b"and more"):
                await log.propose(entry)
    except DamagedLog as damage:
        raise Violation(f"refused in its second life: {damage}") from damage
    disk.kill()
    again = await _start(disk, logs, number + 2)
    _check_entries([*before.entries, b"more", b"and more"], again.entries, len(before.entries) + 2)
    disk.crash(random.Random(number))
    last = await _start(disk, logs, number + 3)
    _check_entries([*before.entries, b"more", b"and more"], last.entries, len(before.entries) + 2)


def _check_entries(proposed: list[bytes], found: list[bytes], acknowledged: int) -> None:
    if found != proposed[: len(found)]:
        raise Violation(f"not what was proposed: {found}")
    if len(found) < acknowledged:
        raise Violation(f"{acknowledged} entries were acknowledged, {len(found)} are left")


def flips(size: int) -> Iterator[tuple[int, int]]:
    """Every (byte, bit) of a file of this size."""
    return itertools.product(range(size), range(8))
