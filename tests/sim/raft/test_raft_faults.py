"""Single faults on three masters, where the answer of the log is exactly known."""

import asyncio
import contextlib
import errno
import pickle
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from orca_master.errors import NotLeader, OutcomeUnknown, StorageFull
from orca_master.state.log import FolderInUse, LogFailed
from orca_master.state.raft import codec
from orca_master.state.raft.followers import PIECE_BYTES
from orca_master.state.raft.wellbeing import SLOW_FOR_SECONDS
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from sim.raft.network import Wires
from sim.raft.node import ITEMS, REGISTERS, Items, Register, SimNode
from sim.virtual_time import run_virtual

Change = Callable[[Transaction], None]


class Three:
    def __init__(self) -> None:
        chance = random.Random(11)
        self.wires = Wires(chance)
        names = ("m1", "m2", "m3")
        self.nodes = [SimNode(name, self.wires, chance) for name in names]
        for node in self.nodes:
            node.options = {"snapshot_every_entries": 40, "kept_entries": 5}

    async def leader(self) -> SimNode:
        async with asyncio.timeout(10):
            while True:
                for node in self.nodes:
                    if node.is_up and node.log is not None and node.log.leadership.is_leader:
                        return node
                await asyncio.sleep(0.01)

    async def others(self) -> list[SimNode]:
        leader = await self.leader()
        return [node for node in self.nodes if node is not leader]

    async def agree(self) -> None:
        async with asyncio.timeout(20):
            while True:
                if len({store_of(node).state.version for node in self.nodes}) == 1:
                    break
                await asyncio.sleep(0.1)
        rows = [sorted(store_of(node).state.raw_rows()) for node in self.nodes]
        assert all(other == rows[0] for other in rows)


@asynccontextmanager
async def three(*, segment_bytes: int = 1 << 20) -> AsyncIterator[Three]:
    cluster = Three()
    for node in cluster.nodes:
        node.options["segment_bytes"] = segment_bytes
    for node in cluster.nodes:
        await node.lay([n.name for n in cluster.nodes])
        await node.start()
    yield cluster
    for node in cluster.nodes:
        await node.stop(power_loss=False)


def in_virtual_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test())  # type: ignore[arg-type]

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def store_of(node: SimNode) -> Store:
    assert node.store is not None
    return node.store


def write(value: int, name: str = "a") -> Change:
    def change(tx: Transaction) -> None:
        tx.put(REGISTERS, Register(name, value))

    return change


@in_virtual_time
async def test_a_full_disk_of_the_leader_refuses_and_later_goes_on_by_itself() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        store = store_of(leader)
        await store.update(write(1))
        leader.disk.capacity = sum(map(len, leader.disk.image().values()))
        for value in (2, 3):
            with pytest.raises(StorageFull):
                await store.update(write(value))
        assert (await store.fresh()).get(REGISTERS, "a") == Register("a", 1)
        assert await cluster.leader() is leader
        leader.disk.capacity = None
        await store.update(write(4))
        await asyncio.sleep(0.3)
        await cluster.agree()


@in_virtual_time
async def test_a_full_disk_of_a_follower_stops_nobody_and_it_catches_up() -> None:
    async with three() as cluster:
        store = store_of(await cluster.leader())
        follower = (await cluster.others())[0]
        follower.disk.capacity = sum(map(len, follower.disk.image().values())) + 20
        for value in range(100):
            await store.update(write(value))
        assert store_of(follower).state.version < 100
        await asyncio.sleep(2)
        follower.disk.capacity = None
        await asyncio.sleep(2)
        await cluster.agree()


@in_virtual_time
async def test_a_snapshot_that_found_no_space_is_installed_soon_after_there_is_some() -> None:
    async with three() as cluster:
        store = store_of(await cluster.leader())
        follower, other = await cluster.others()
        for node in cluster.nodes:
            if node is not follower:
                cluster.wires.cut(follower.name, node.name)
        for value in range(100):
            await store.update(write(value, f"r{value}"))
        follower.disk.capacity = sum(map(len, follower.disk.image().values())) + 1000
        cluster.wires.heal()
        await asyncio.sleep(5)
        assert store_of(other).state.version >= 100
        assert store_of(follower).state.version < 100
        follower.disk.capacity = None
        await asyncio.sleep(3)
        await cluster.agree()


@in_virtual_time
async def test_a_failed_sync_stops_the_leader_and_the_others_go_on_co_26() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        store = store_of(leader)
        await store.update(write(1))
        leader.disk.fail_next("sync", OSError(errno.EIO, "rotten"))
        with pytest.raises((OutcomeUnknown, LogFailed)):
            await store.update(write(2))
        await asyncio.sleep(0.1)
        assert isinstance(leader.failure, LogFailed)
        assert leader.log is not None
        with pytest.raises(LogFailed):
            await leader.log.propose(b"more")
        await asyncio.sleep(2)
        await store_of(await cluster.leader()).update(write(3))


@in_virtual_time
async def test_leadership_is_handed_over_within_three_tenths_of_a_second() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        await store_of(leader).update(write(1))
        started = asyncio.get_running_loop().time()
        assert leader.log is not None
        assert await leader.log.transfer()
        new = await cluster.leader()
        assert new is not leader
        await store_of(new).update(write(2))
        assert asyncio.get_running_loop().time() - started < 0.3


@in_virtual_time
async def test_leadership_goes_to_the_one_that_is_named() -> None:
    async with three() as cluster:
        for _ in range(2):
            leader = await cluster.leader()
            for heir in await cluster.others():
                assert leader.log is not None
                assert await leader.log.transfer(heir.name)
                leader = await cluster.leader()
                assert leader is heir


@in_virtual_time
async def test_nobody_to_hand_over_to_leaves_the_leader_as_it_was() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        for node in await cluster.others():
            await node.stop(power_loss=False)
        assert leader.log is not None
        started = asyncio.get_running_loop().time()
        assert not await leader.log.transfer()
        assert asyncio.get_running_loop().time() - started < 0.35


@in_virtual_time
async def test_a_leader_that_is_cut_off_says_so_soon_and_reads_nothing_old_co_05() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        store = store_of(leader)
        await store.update(write(1))
        for node in await cluster.others():
            cluster.wires.cut(leader.name, node.name)
        started = asyncio.get_running_loop().time()
        answers = await asyncio.gather(
            store.update(write(2)), store.fresh(), return_exceptions=True
        )
        assert isinstance(answers[0], OutcomeUnknown)
        assert isinstance(answers[1], NotLeader)
        assert asyncio.get_running_loop().time() - started < 1.1


@in_virtual_time
async def test_a_master_that_was_away_is_given_a_snapshot_in_bounded_pieces() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        away = (await cluster.others())[0]
        await away.stop(power_loss=True)
        pieces: list[codec.Piece] = []

        def watch(sender: str, receiver: str, message: codec.Message) -> None:
            if isinstance(message, codec.Piece):
                pieces.append(message)

        cluster.wires.on_send = watch
        tokens = ["t" * 1000] * 500
        for number in range(60):

            def change(tx: Transaction, number: int = number) -> None:
                tx.put(ITEMS, Items(f"{number % 4}", [str(number), *tokens]))

            await store_of(leader).update(change)
        await away.start()
        await asyncio.sleep(3)
        await cluster.agree()
        assert len(pieces) >= 8
        assert max(len(piece.data) for piece in pieces) <= PIECE_BYTES


@in_virtual_time
async def test_a_partitioned_master_does_not_disturb_the_others_when_it_is_back() -> None:
    """Pre-vote: it did not raise its term while it was alone."""
    async with three() as cluster:
        leader = await cluster.leader()
        assert leader.log is not None
        before = leader.log.leadership
        alone = (await cluster.others())[0]
        for node in cluster.nodes:
            if node is not alone:
                cluster.wires.cut(node.name, alone.name)
        await asyncio.sleep(10)
        cluster.wires.heal()
        await asyncio.sleep(3)
        assert leader.log.leadership == before


@in_virtual_time
async def test_one_direction_that_is_dead_makes_no_storm_of_elections_co_08() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        assert leader.log is not None
        before = leader.log.leadership.term
        cluster.wires.hold(leader.name, (await cluster.others())[0].name)
        await asyncio.sleep(5)
        cluster.wires.heal()
        await asyncio.sleep(3)
        new = await cluster.leader()
        assert new.log is not None
        assert new.log.leadership.term <= before + 3
        await store_of(new).update(write(1))


@pytest.mark.parametrize("is_leader", [True, False])
def test_a_disk_that_takes_half_a_second_causes_no_elections_co_30(is_leader: bool) -> None:
    async def test() -> None:
        async with three() as cluster:
            leader = await cluster.leader()
            assert leader.log is not None
            before = leader.log.leadership
            slow = leader if is_leader else (await cluster.others())[0]
            slow.disk.sync_seconds = slow.threads.seconds = 0.5
            started = asyncio.get_running_loop().time()
            while (now := asyncio.get_running_loop().time() - started) < 30:
                writer = await cluster.leader()
                assert writer is leader or (is_leader and now > SLOW_FOR_SECONDS)
                with contextlib.suppress(NotLeader, OutcomeUnknown):
                    await store_of(writer).update(write(int(now)))
                await asyncio.sleep(0.02)
            last = (await cluster.leader()).log
            assert last is not None
            assert last.leadership.term == before.term + is_leader, "handed over, or nothing"

    run_virtual(test())


@in_virtual_time
async def test_a_committed_command_of_an_unknown_kind_stops_whoever_would_apply_it() -> None:
    """A newer master's entry: to skip it would be to diverge. The last one has no majority."""
    async with three() as cluster:
        leader = await cluster.leader()
        assert leader.log is not None
        leader.log._engine.append(bytes((codec.VERSION,)) + b"2")
        await asyncio.sleep(5)
        failures = [str(node.failure) for node in cluster.nodes if node.failure is not None]
        assert len(failures) == 2
        assert all(f"of kind {codec.VERSION}" in failure for failure in failures)


@in_virtual_time
async def test_bytes_that_are_no_list_of_members_never_get_into_a_log() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        assert leader.log is not None
        before = leader.log.progress().last_index
        with pytest.raises(ValueError, match="no list of members"):
            leader.log._engine.append(bytes((codec.MEMBERSHIP,)) + pickle.dumps(["add", "m4"]))
        assert leader.log.progress().last_index == before


@in_virtual_time
async def test_a_leader_whose_disk_stays_full_hands_over_to_one_whose_disk_is_not() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        await store_of(leader).update(write(1))
        leader.disk.capacity = sum(map(len, leader.disk.image().values()))
        with pytest.raises(StorageFull):
            await store_of(leader).update(write(2))
        async with asyncio.timeout(5):
            while (new := await cluster.leader()) is leader:
                await asyncio.sleep(0.05)
        await store_of(new).update(write(3))


@in_virtual_time
async def test_a_leader_whose_disk_stays_slow_hands_over_to_one_whose_disk_is_not() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        leader.disk.sync_seconds = leader.threads.seconds = 0.6
        asked = 0
        async with asyncio.timeout(60):
            while (await cluster.leader()) is leader:
                with contextlib.suppress(NotLeader, OutcomeUnknown):
                    await store_of(leader).update(write(asked))
                await asyncio.sleep(0.01)
                asked += 1
        assert asked > 5
        await store_of(await cluster.leader()).update(write(-1))


@in_virtual_time
async def test_a_leader_whose_disk_is_no_slower_than_the_others_stays() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        assert leader.log is not None
        for node in cluster.nodes:
            node.disk.sync_seconds = node.threads.seconds = 0.6
        await asyncio.sleep(1)
        before = (await cluster.leader()).name
        for value in range(30):
            await store_of(await cluster.leader()).update(write(value))
        assert (await cluster.leader()).name == before


@in_virtual_time
async def test_a_folder_of_another_member_is_refused_cl_32() -> None:
    async with three() as cluster:
        one, other = cluster.nodes[:2]
        await one.stop(power_loss=False)
        await other.stop(power_loss=False)
        one.disk, other.disk = other.disk, one.disk
        with pytest.raises(FolderInUse):
            await one.start()
        one.disk, other.disk = other.disk, one.disk
