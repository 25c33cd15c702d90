"""The solo log on the simulated disk: restarts, snapshots, full and failing disks, whose folder."""

import asyncio
import errno
import random
from collections.abc import Iterator

import pytest
from recorder import FOLDER, Recorder, a_log, a_slow_pace, numbered, recovered, running

from orca_common.env import Env
from orca_master.errors import NotLeader, OutcomeUnknown, StorageFull
from orca_master.state.log import FolderInUse, LogFailed
from orca_master.state.solo import SoloLog
from sim.disk import SimDisk
from sim.env import sim_env


class Large(Recorder):
    """Its snapshots take ten slices."""

    def capture(self) -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(64 << 10)


async def written(env: Env, entries: list[bytes], **options: int) -> None:
    async with running(a_log(env, **options), Recorder()) as log:
        for entry in entries:
            assert await log.propose(entry)


async def test_a_restart_finds_every_acknowledged_entry_in_order():
    env = sim_env(1)
    await written(env, numbered(20))
    await written(env, numbered(5))
    assert await recovered(env) == numbered(20) + numbered(5)


async def test_every_start_raises_the_term_even_after_power_loss():
    disk = SimDisk()
    terms = []
    for number in range(5):
        log = a_log(sim_env(number, disk))
        await log.start(Recorder())
        terms.append(log.leadership.term)
        assert log.leadership.is_leader
        assert log.leadership.leader == "m1"
        disk.crash(random.Random(number))
    assert terms == [1, 2, 3, 4, 5]


async def test_proposals_that_wait_together_share_one_sync_and_keep_their_order():
    disk = SimDisk()
    env = sim_env(1, disk)
    machine = Recorder()
    syncs = 0

    def count() -> None:
        nonlocal syncs
        syncs += 1

    async with running(a_log(env), machine) as log:
        disk.before_change = count
        answers = await asyncio.gather(*(log.propose(entry) for entry in numbered(50)))
        disk.before_change = lambda: None
    assert answers == [True] * 50
    assert machine.entries == numbered(50)
    assert syncs == 2, "one write and one sync"


async def test_a_proposal_whose_caller_has_gone_is_not_written():
    env = sim_env(1)
    async with running(a_log(env), Recorder()) as log:
        gone = asyncio.ensure_future(log.propose(b"gone"))
        stays = asyncio.ensure_future(log.propose(b"stays"))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays
    assert await recovered(env) == [b"stays"]


async def test_the_answer_is_what_the_machine_said():
    class Refusing(Recorder):
        def apply(self, entry: bytes) -> bool:
            return entry != b"superseded"

    async with running(a_log(sim_env(1)), Refusing()) as log:
        assert not await log.propose(b"superseded")
        assert await log.propose(b"fine")


async def test_a_machine_that_raises_stops_the_log_and_skips_nothing():
    class Broken(Recorder):
        def apply(self, entry: bytes) -> bool:
            raise ValueError("from the future")

    env = sim_env(1)
    log = a_log(env)
    await log.start(Broken())
    work = asyncio.ensure_future(log.run())
    with pytest.raises(LogFailed, match="from the future"):
        await log.propose(b"x")
    with pytest.raises(LogFailed, match="from the future"):
        await work
    await log.close()
    with pytest.raises(LogFailed, match="entry 2"):
        await a_log(env).start(Broken())


async def test_segments_and_snapshots_make_room_and_lose_nothing():
    disk = SimDisk()
    options = {"segment_bytes": 300, "snapshot_every_entries": 20}
    entries = numbered(200)
    await written(sim_env(1, disk), entries, **options)
    names = disk.list(FOLDER)
    assert sum(name.endswith(".snapshot") for name in names) == 2
    assert sum(name.endswith(".log") for name in names) < 12
    assert not any(name.endswith(".tmp") for name in names)
    assert await recovered(sim_env(2, disk), **options) == entries


async def test_the_loop_turns_while_a_snapshot_is_written():
    disk = SimDisk()
    env = sim_env(1, disk)
    async with running(a_log(env, snapshot_every_entries=3), Large()) as log:
        acknowledged_during = 0
        for entry in numbered(40):
            await log.propose(entry)
            acknowledged_during += any(n.endswith(".tmp") for n in disk.list(FOLDER))
    assert acknowledged_during >= 5


async def test_a_snapshot_holds_the_state_of_its_index_although_writing_goes_on():
    disk = SimDisk()
    env = sim_env(1, disk)
    entries = numbered(300)
    async with running(a_log(env, snapshot_every_entries=7, segment_bytes=200), Recorder()) as log:
        for entry in entries:
            await log.propose(entry)
    assert await recovered(env) == entries


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_refuses_with_the_reason_and_the_next_proposal_tries_again(number):
    disk = SimDisk()
    env = sim_env(1, disk)
    async with running(a_log(env), Recorder()) as log:
        await log.propose(b"before")
        disk.fail_next("write", OSError(number, "no room here"))
        with pytest.raises(StorageFull, match="no room here"):
            await log.propose(b"refused")
        assert await log.propose(b"after")
    assert await recovered(env) == [b"before", b"after"]


async def test_a_disk_that_fills_at_any_byte_takes_the_record_back_and_resumes_when_there_is_room():
    for room in range(60):
        disk = SimDisk()
        env = sim_env(room, disk)
        async with running(a_log(env, segment_bytes=100), Recorder()) as log:
            await log.propose(b"a" * 30)
            disk.capacity = sum(map(len, disk.image().values())) + room
            outcomes = []
            for entry in (b"b" * 30, b"c" * 30):
                try:
                    outcomes += [entry] if await log.propose(entry) else []
                except StorageFull:
                    continue
            assert len(outcomes) < 2
            disk.capacity = None
            assert await log.propose(b"d" * 30)
        disk.crash(random.Random(room))
        assert await recovered(sim_env(1, disk)) == [b"a" * 30, *outcomes, b"d" * 30]


async def test_a_disk_without_room_for_a_snapshot_does_not_stop_the_log():
    disk = SimDisk()
    env = sim_env(1, disk)
    async with running(a_log(env, snapshot_every_entries=5), Recorder()) as log:
        for entry in numbered(4):
            await log.propose(entry)
        disk.capacity = sum(map(len, disk.image().values())) + 90
        assert await log.propose(b"last")
        for _ in range(10):
            await asyncio.sleep(0)
        assert not any(name.endswith(".tmp") for name in disk.list(FOLDER))
        disk.capacity = None
        assert await log.propose(b"again")
    assert await recovered(env) == [*numbered(4), b"last", b"again"]


async def failed(log: SoloLog) -> None:
    """Assert that a proposal, every later one and `run` end with LogFailed."""
    work = asyncio.ensure_future(log.run())
    for _ in range(3):
        with pytest.raises(LogFailed):
            await log.propose(b"x")
    with pytest.raises(LogFailed):
        await work
    with pytest.raises(LogFailed):
        await log.barrier()
    assert not log.leadership.is_leader
    await log.close()


@pytest.mark.parametrize("verb", ["sync", "write"])
async def test_a_failing_disk_is_fatal_and_never_asked_twice(verb):
    disk = SimDisk()
    log = a_log(sim_env(1, disk))
    await log.start(Recorder())
    disk.fail_next(verb, OSError(errno.EIO, "I/O error"))
    await failed(log)


async def test_a_full_disk_whose_rest_cannot_be_cut_off_is_fatal():
    disk = SimDisk()
    log = a_log(sim_env(1, disk))
    await log.start(Recorder())
    disk.capacity = sum(map(len, disk.image().values())) + 5
    disk.fail_next("truncate", OSError(errno.EIO, "I/O error"))
    await failed(log)


@pytest.mark.parametrize("verb", ["write", "sync", "rename", "sync_folder", "remove"])
async def test_a_disk_that_fails_under_a_snapshot_is_fatal_too(verb):
    disk = SimDisk()
    log = a_log(sim_env(1, disk), snapshot_every_entries=4, segment_bytes=100)
    await log.start(Large())
    work = asyncio.ensure_future(log.run())
    if verb == "remove":  # only the second snapshot makes anything needless
        for entry in numbered(100):
            await log.propose(entry)
            if any(name.endswith(".snapshot") for name in disk.list(FOLDER)):
                break
    for entry in numbered(4):
        await log.propose(entry)
    await asyncio.sleep(0)
    assert any(name.endswith(".tmp") for name in disk.list(FOLDER))
    disk.fail_next(verb, OSError(errno.EIO, "I/O error"))
    with pytest.raises(LogFailed):
        async with asyncio.timeout(60):
            await work
    with pytest.raises(LogFailed):
        await log.propose(b"x")
    await log.close()


async def test_a_full_disk_at_the_start_is_said_so_and_lets_the_folder_go():
    disk = SimDisk()
    env = sim_env(1, disk)
    await written(env, numbered(3))
    disk.capacity = 0
    with pytest.raises(StorageFull):
        await a_log(env).start(Recorder())
    disk.capacity = None
    assert await recovered(env) == numbered(3)


async def test_a_disk_that_is_full_when_the_log_is_created_is_no_obstacle_later():
    for room in range(0, 170, 3):
        disk = SimDisk()
        env = sim_env(room, disk)
        disk.capacity = room
        try:
            await recovered(env)
        except StorageFull:
            assert room < 150
        else:
            assert room > 80
        if room % 2:
            disk.crash(random.Random(room))
        disk.capacity = None
        async with running(a_log(env), Recorder()) as log:
            await log.propose(b"x")
        assert await recovered(env) == [b"x"]


async def test_a_second_log_on_the_same_folder_is_refused_until_the_first_lets_go():
    env = sim_env(1)
    first = a_log(env)
    await first.start(Recorder())
    with pytest.raises(FolderInUse, match="another process"):
        await a_log(env).start(Recorder())
    await first.close()
    await recovered(env)


async def test_another_clusters_folder_is_refused_naming_both_cl_32():
    env = sim_env(1)
    await recovered(env)
    with pytest.raises(
        FolderInUse, match=r"member m1 of cluster c1, not to member m2 of cluster c9"
    ):
        await a_log(env, cluster_id="c9", member_name="m2").start(Recorder())
    await recovered(env)


async def test_an_upgraded_folder_is_refused_by_an_older_master():
    disk = SimDisk()
    await recovered(sim_env(1, disk))
    disk.put(f"{FOLDER}/identity", b'{"cluster":"c1","member":"m1","format":2}')
    with pytest.raises(FolderInUse, match="format 2"):
        await recovered(sim_env(1, disk))


async def test_a_stopped_log_says_whether_anything_was_changed():
    class Never:
        async def run(self, work):
            await asyncio.Event().wait()

    disk = SimDisk()
    plain = sim_env(1, disk)
    env = Env(clock=plain.clock, random=plain.random, disk=disk, threads=Never())
    log = a_log(env)
    await log.start(Recorder())
    log._pace = a_slow_pace()  # a slow disk: its syncs go to a thread, which here never ends
    work = asyncio.ensure_future(log.run())
    under_way = asyncio.ensure_future(log.propose(b"under way"))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(log.propose(b"waiting"))
    await asyncio.sleep(0)
    seen = log.leadership
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    with pytest.raises(OutcomeUnknown):
        await under_way
    with pytest.raises(NotLeader):
        await waiting
    with pytest.raises(NotLeader):
        await log.propose(b"later")
    assert not (await log.leadership_change(seen)).is_leader
    await log.close()


async def test_a_caller_who_goes_while_his_entry_is_written_does_not_stop_the_log():
    class Held:
        gate = asyncio.Event()

        async def run(self, work):
            await self.gate.wait()
            return work()

    plain = sim_env(1)
    threads = Held()
    env = Env(clock=plain.clock, random=plain.random, disk=plain.disk, threads=threads)
    machine = Recorder()
    async with running(a_log(env), machine) as log:
        log._pace = a_slow_pace()  # a slow disk: its syncs go to a thread
        going = asyncio.ensure_future(log.propose(b"going"))
        for _ in range(5):
            await asyncio.sleep(0)
        going.cancel()
        threads.gate.set()
        assert await log.propose(b"next")
    assert machine.entries == [b"going", b"next"]


async def test_a_slow_disk_is_synced_in_a_thread_and_a_quick_one_on_the_loop():
    class Threads:
        runs = 0

        async def run(self, work):
            self.runs += 1
            return work()

    class Clock:
        at = 0.0
        step = 0.002

        def now(self):
            return self.at

        def monotonic(self):
            self.at += self.step
            return self.at

    plain = sim_env(1)
    clock, threads = Clock(), Threads()
    env = Env(clock=clock, random=plain.random, disk=plain.disk, threads=threads)
    async with running(a_log(env), Recorder()) as log:
        for entry in numbered(40):
            await log.propose(entry)
        assert threads.runs > 20
        clock.step = 0.0001
        for entry in numbered(100):
            await log.propose(entry)
        before = threads.runs
        await log.propose(b"quick")
        assert threads.runs == before
