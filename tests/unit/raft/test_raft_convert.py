"""From a solo log to Raft: the same state and greater terms, in every state that a crash may leave."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from orca_master.state.log import DamagedLog, FolderInUse
from orca_master.state.raft import RaftLog, found
from orca_master.state.raft.convert import convert
from orca_master.state.solo.log import SoloLog
from sim.disk import Image, SimDisk
from sim.env import sim_env
from sim.raft.network import Port, Wires
from sim.virtual_time import run_virtual

SOLO, RAFT, CLUSTER = "/data/log", "/data/raft", "c1"


class Words:
    """The machine: what it was told, in order."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, entry: bytes) -> bool:
        self.words.append(entry)
        return True

    def capture(self) -> Iterator[bytes]:
        yield b"words"
        yield from list(self.words)

    def restoring(self) -> "Restoration":
        return Restoration(self)


class Restoration:
    def __init__(self, machine: Words) -> None:
        self._machine = machine
        self._parts: list[bytes] = []

    def take(self, part: bytes) -> None:
        self._parts.append(part)

    def replace(self) -> None:
        header, *words = self._parts
        if header != b"words":
            raise ValueError("no words")
        self._machine.words = words


def a_solo(disk: SimDisk) -> SoloLog:
    return SoloLog(
        sim_env(1, disk), SOLO, cluster_id=CLUSTER, member_name="m1", snapshot_every_entries=3
    )


@contextlib.asynccontextmanager
async def running(log: SoloLog | RaftLog, machine: Words) -> AsyncIterator[None]:
    await log.start(machine)
    task = asyncio.ensure_future(log.run())
    while not log.leadership.is_leader:
        await asyncio.sleep(0.01)
    yield
    task.cancel()
    await asyncio.wait({task})
    await log.close()


async def lead(disk: SimDisk, folder: str = RAFT) -> tuple[list[bytes], int]:
    """(what it knows, its term), of the log that is in force."""
    machine = Words()
    log: SoloLog | RaftLog
    if disk.exists(folder):
        port = Port(Wires(random.Random(1)), "m1")
        log = RaftLog(sim_env(2, disk), folder, cluster_id=CLUSTER, node="m1", network=port)
    else:
        log = a_solo(disk)
    async with running(log, machine):
        await log.propose(b"more")
    assert machine.words.pop() == b"more"
    return machine.words, log.leadership.term


async def written() -> tuple[SimDisk, list[bytes], int]:
    """A solo log after two starts and ten writes, what is in it, and its last term."""
    disk, machine = SimDisk(), Words()
    for start in range(2):
        machine, log = Words(), a_solo(disk)
        async with running(log, machine):
            for number in range(5):
                await log.propose(b"%d-%d" % (start, number))
    return disk, machine.words, log.leadership.term


async def converted(disk: SimDisk) -> Words:
    machine = Words()
    await convert(
        sim_env(3, disk), SOLO, RAFT, cluster_id=CLUSTER, node="m1", address="h:1", machine=machine
    )
    return machine


def test_the_state_stays_and_terms_go_on_upwards() -> None:
    async def test() -> None:
        disk, words, term = await written()
        assert (await converted(disk)).words == words
        assert disk.list(SOLO) == ["lock"]
        found, raft_term = await lead(disk)
        assert found == words
        assert raft_term > term + 1  # to convert is to start the solo log once more
        await converted(disk)  # a second time changes nothing
        assert (await lead(disk))[0] == [*words, b"more"]

    run_virtual(test())


def test_every_crash_leaves_one_whole_log_in_force_and_converting_again_ends_well() -> None:
    async def test() -> None:
        disk, words, term = await written()
        chance = random.Random(3)
        images: dict[tuple[tuple[str, bytes], ...], Image] = {}

        def note() -> None:
            for image in disk.some_crash_states(60, chance):
                images[tuple(sorted(image.items()))] = image

        disk.before_change = note
        await converted(disk)
        note()
        assert len(images) > 100
        in_force = {True: 0, False: 0}
        for image in images.values():
            before = SimDisk(image)
            in_force[before.exists(RAFT)] += 1
            assert (await lead(before))[0] == words
            again = SimDisk(image)
            await converted(again)
            found, raft_term = await lead(again)
            assert found == words
            assert raft_term > term
            assert set(again.list(SOLO) if again.exists(SOLO) else []) <= {"lock"}
        assert min(in_force.values()) > 5

    run_virtual(test())


def test_what_cannot_be_converted_is_refused_and_stays_as_it_was() -> None:
    async def test() -> None:
        with pytest.raises(DamagedLog, match="no log"):
            await converted(SimDisk())
        disk, words, _ = await written()
        image = disk.image()
        release = disk.lock(f"{SOLO}/lock")
        with pytest.raises(FolderInUse):
            await converted(disk)
        release()
        newest = max(path for path in image if path.endswith(".log"))
        rotten = SimDisk(image)
        rotten.flip(newest, byte=3, bit=1)
        with pytest.raises(DamagedLog):
            await converted(rotten)
        for full in (disk, rotten):
            assert not full.exists(RAFT)
        assert (await lead(disk))[0] == words

    run_virtual(test())


def test_a_full_disk_leaves_the_solo_log_in_force() -> None:
    async def test() -> None:
        disk, words, _ = await written()
        image = disk.image()
        used = sum(map(len, image.values()))
        refused = 0
        for room in range(0, 400, 9):
            full = SimDisk(image)
            full.capacity = used + room
            try:
                await converted(full)
            except Exception:  # whichever it was: what counts is what is left
                refused += 1
                assert not full.exists(RAFT)
            full.kill()
            full.capacity = None
            assert (await lead(full))[0] == words
        assert refused > 10

    run_virtual(test())


def test_a_cluster_is_founded_whole_or_not_at_all_and_only_where_nothing_is() -> None:
    async def test() -> None:
        disk = SimDisk()
        images: list[Image] = []
        disk.before_change = lambda: images.extend(disk.some_crash_states(20, random.Random(1)))
        env = sim_env(1, disk)
        capture = [b"words", b"a", b"b"]
        await found(
            env, RAFT, cluster_id=CLUSTER, node="m1", address="h:1", capture=capture, first_term=7
        )
        disk.before_change()
        with pytest.raises(FolderInUse, match="exists"):
            await found(env, RAFT, cluster_id=CLUSTER, node="m1", address="h:1")
        states = {SimDisk(image).exists(RAFT) for image in images}
        assert states == {True, False}
        for image in images:
            again = SimDisk(image)
            if not again.exists(RAFT):
                await found(
                    sim_env(2, again), RAFT, cluster_id=CLUSTER, node="m1", address="h:1",
                    capture=capture, first_term=7,
                )  # fmt: skip
            assert await lead(again) == ([b"a", b"b"], 8)

    run_virtual(test())
