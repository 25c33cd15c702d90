"""Masters that join, are promoted and removed, one case at a time, where the answer is exactly known."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orca_master.errors import Conflict, NotLeader, StorageFull
from orca_master.state.raft import Member, RaftLog
from orca_master.state.raft.codec import Append, Message, Piece, RequestVote
from sim.raft.node import SimNode, address_of
from sim.raft.test_raft_faults import Three, in_virtual_time, store_of, three, write
from sim.virtual_time import run_virtual


def log_of(node: SimNode) -> RaftLog:
    assert node.log is not None
    return node.log


async def a_joiner(cluster: Three, name: str = "m4") -> SimNode:
    """Started; nobody has been asked to take it in."""
    node = SimNode(name, cluster.wires, random.Random(5), peers=[n.name for n in cluster.nodes])
    cluster.nodes.append(node)
    await node.start()
    return node


async def a_learner(cluster: Three, name: str = "m4") -> SimNode:
    node = await a_joiner(cluster, name)
    await log_of(await cluster.leader()).add_learner(name, address_of(name))
    await cluster.agree()
    return node


@asynccontextmanager
async def one() -> AsyncIterator[tuple[Three, SimNode]]:
    """A cluster of one."""
    cluster = Three()
    del cluster.nodes[1:]
    (node,) = cluster.nodes
    await node.lay([node.name])
    await node.start()
    yield cluster, node
    for each in cluster.nodes:
        await each.stop(power_loss=False)


@in_virtual_time
async def test_a_log_of_one_leads_at_once_and_waits_for_nothing_but_its_disk() -> None:
    async with one() as (_, node):
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not log_of(node).leadership.is_leader:
            await asyncio.sleep(0.001)
        for value in range(50):
            await store_of(node).update(write(value))
        await store_of(node).fresh()
        assert not await log_of(node).transfer()
        assert loop.time() - started < 0.01
        await node.stop(power_loss=True)
        await node.start()
        while not log_of(node).leadership.is_leader:
            await asyncio.sleep(0.001)
        assert store_of(node).state.version == 50
        assert log_of(node).leadership.term == 2


@in_virtual_time
async def test_one_becomes_three_and_three_become_one_again() -> None:
    async with one() as (cluster, first):
        for value in range(100):
            await store_of(await cluster.leader()).update(write(value))
        for name in ("m2", "m3"):
            await a_learner(cluster, name)
            await log_of(first).promote(name)
        assert {m.id for m in log_of(first).members if m.is_voter} == {"m1", "m2", "m3"}
        await first.stop(power_loss=True)
        await store_of(await cluster.leader()).update(write(100))
        await first.start()
        await cluster.agree()
        while len(cluster.nodes) > 1:
            leader = await cluster.leader()
            await log_of(leader).remove(leader.name)
            await asyncio.sleep(2)
            assert leader.removed is not None
            assert leader.name in str(leader.removed)
            cluster.nodes.remove(leader)
        await store_of(await cluster.leader()).update(write(101))


@in_virtual_time
async def test_a_learner_gets_everything_and_counts_for_nothing() -> None:
    async with three() as cluster:
        learner = await a_learner(cluster)
        leader = await cluster.leader()
        for node in await cluster.others():
            if node is not learner:
                await node.stop(power_loss=False)
        asked = asyncio.ensure_future(store_of(leader).update(write(1)))
        await asyncio.sleep(5)
        assert isinstance(asked.exception(), Exception)
        assert not any(log_of(n).leadership.is_leader for n in (leader, learner))
        assert log_of(learner).leadership.term == log_of(leader).leadership.term


@in_virtual_time
async def test_what_cannot_be_done_is_refused_with_words_for_people() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        log = log_of(leader)
        follower = (await cluster.others())[0]
        with pytest.raises(NotLeader):
            await log_of(follower).remove("m1")
        with pytest.raises(Conflict, match="no member"):
            await log.promote("m9")
        with pytest.raises(Conflict, match="host:port"):
            await log.add_learner("m4", "nowhere")
        await log.add_learner("m4", "nobody.there:1")
        with pytest.raises(Conflict, match="not caught up"):
            await log.promote("m4")
        both = await asyncio.gather(
            log.change_address("m4", "h:2"), log.change_address("m4", "h:3"), return_exceptions=True
        )
        assert both[0] is None
        assert isinstance(both[1], Conflict)
        assert "under way" in both[1].message
        assert Member("m4", "h:2", is_voter=False) in log.members
        assert not log.is_changing
        await log.remove("m4")
        with pytest.raises(Conflict, match="new id"):
            await log.add_learner("m4", "h:4")


@in_virtual_time
async def test_a_healthy_voter_is_not_removed_when_those_left_could_not_commit_that() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        healthy, gone = await cluster.others()
        await gone.stop(power_loss=True)
        await asyncio.sleep(1.5)
        with pytest.raises(Conflict, match="no majority"):
            await log_of(leader).remove(healthy.name)
        await log_of(leader).remove(gone.name)
        await log_of(leader).remove(healthy.name)
        await store_of(leader).update(write(1))


@in_virtual_time
async def test_a_full_disk_takes_a_change_of_members_back() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        before = log_of(leader).members
        leader.disk.capacity = sum(map(len, leader.disk.image().values()))
        with pytest.raises(StorageFull):
            await log_of(leader).add_learner("m4", "h:4")
        assert log_of(leader).members == before
        assert await cluster.leader() is leader
        leader.disk.capacity = None
        await log_of(leader).add_learner("m4", "h:4")


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_a_removed_master_disturbs_nobody_and_learns_of_it_when_it_can(is_cut_off: bool) -> None:
    """Pre-vote and stickiness: whoever never heard of its removal raises nobody's term."""

    async def test() -> None:
        async with three() as cluster:
            leader = await cluster.leader()
            removed = (await cluster.others())[0]
            if is_cut_off:
                for node in cluster.nodes:
                    if node is not removed:
                        cluster.wires.cut(node.name, removed.name)
            await log_of(leader).remove(removed.name)
            before = log_of(leader).leadership
            stood: list[str] = []

            def watch(sender: str, receiver: str, message: Message) -> None:
                if isinstance(message, RequestVote):
                    stood.append(sender)

            cluster.wires.on_send = watch
            await asyncio.sleep(10)
            assert (removed.removed is None) == is_cut_off
            cluster.wires.heal()
            await asyncio.sleep(3)
            assert removed.removed is not None
            assert "its data folder can be deleted" in str(removed.removed)
            await removed.stop(power_loss=False)
            await removed.start()  # with its old disk
            await asyncio.sleep(3)
            assert removed.removed is not None
            assert log_of(leader).leadership == before
            assert stood == []

    run_virtual(test())


@in_virtual_time
async def test_a_joiner_that_nobody_added_waits_and_asks_for_nothing() -> None:
    async with three() as cluster:
        joiner = await a_joiner(cluster)
        sent: list[str] = []
        cluster.wires.on_send = lambda sender, *_: sent.append(sender)
        await asyncio.sleep(5)
        assert joiner.name not in sent
        assert log_of(joiner).members == ()


@in_virtual_time
async def test_progress_and_meters_tell_what_happened() -> None:
    async with three() as cluster:
        leader = await cluster.leader()
        sent: list[type[Message]] = []
        cluster.wires.on_send = lambda _s, _r, message: sent.append(type(message))
        for value in range(60):
            await store_of(leader).update(write(value))
        learner = await a_learner(cluster)
        await asyncio.sleep(1)
        assert {Append, Piece} <= set(sent)
        standing = log_of(leader).progress()
        assert [m.id for m in standing.members] == ["m1", "m2", "m3", "m4"]
        assert {m.match_index for m in standing.members} == {standing.last_index}
        assert all(m.is_connected and m.heard_seconds < 0.5 for m in standing.members)
        assert [m.is_voter for m in standing.members] == [True, True, True, False]
        theirs = log_of(learner).progress()
        assert theirs.members == ()
        assert theirs.term == standing.term
        assert theirs.applied_index == standing.applied_index
        meters = log_of(leader).meters
        assert meters.elections_stood >= 1
        assert meters.leadership_changes >= 1
        assert meters.snapshots_taken >= 1
        assert meters.snapshots_sent == 1
        assert log_of(learner).meters.snapshots_received == 1
        assert meters.proposal.count == 61
        assert sum(meters.fsync.buckets) == meters.fsync.count > 60
