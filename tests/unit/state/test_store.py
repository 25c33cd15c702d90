"""The store over a log that commits at once or fails on order: groups, refusals, who hears of what."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest
from memory_log import MemoryLog

from orca_common.env import Env
from orca_master.errors import Conflict, NotLeader, OutcomeUnknown, StorageFull, TooLarge
from orca_master.state.follow import FeedOverrun
from orca_master.state.log import LogFailed, restore
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table
from orca_master.state.transaction import Transaction
from sim.env import SimClock, sim_env


class Row(msgspec.Struct, frozen=True):
    id: str
    value: int = 0
    group: str | None = None


ROWS = Table("rows", Row, key=lambda r: (r.id,), indexes={"group": lambda r: r.group})
OTHERS = Table("others", Row, key=lambda r: (r.id,))


@contextlib.asynccontextmanager
async def a_store(log: MemoryLog, env: Env | None = None) -> AsyncIterator[Store]:
    store = Store(env or sim_env(1), log, Schema(ROWS, OTHERS))
    await store.start()
    work = asyncio.ensure_future(store.run())
    try:
        yield store
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await store.close()


def put(name: str, value: int = 0, group: str | None = None):
    return lambda tx: tx.put(ROWS, Row(name, value, group))


def create(name: str):
    def run(tx: Transaction) -> str:
        if tx.get(ROWS, name) is not None:
            raise Conflict(f"{name} exists")
        tx.put(ROWS, Row(name))
        return name

    return run


def increment(name: str):
    def run(tx: Transaction) -> int:
        value = tx.need(ROWS, name, kind="row").value + 1
        tx.put(ROWS, Row(name, value))
        return value

    return run


async def test_a_result_comes_when_the_write_is_in_the_state():
    async with a_store(MemoryLog()) as store:
        assert await store.update(create("a")) == "a"
        assert store.state.get(ROWS, "a") == Row("a")
        assert store.state.version == 1


async def test_all_who_wait_share_one_entry_and_run_one_after_another():
    log = MemoryLog()
    async with a_store(log) as store:
        await store.update(put("n"))
        results = await asyncio.gather(*(store.update(increment("n")) for _ in range(100)))
        assert results == list(range(1, 101))
        assert len(log.entries) == 2
        assert store.state.version == 2


async def test_a_refusal_leaves_no_trace_and_does_not_hurt_the_others():
    def refuse(tx: Transaction) -> None:
        tx.put(ROWS, Row("trace"))
        tx.delete(ROWS, "a")
        raise Conflict("no")

    log = MemoryLog()
    async with a_store(log) as store:
        await store.update(put("a"))
        answers = await asyncio.gather(
            store.update(put("b")),
            store.update(refuse),
            store.update(put("c")),
            return_exceptions=True,
        )
        assert isinstance(answers[1], Conflict)
        assert [row.id for row in store.state.scan(ROWS)] == ["a", "b", "c"]
        await asyncio.gather(store.update(refuse), return_exceptions=True)
        assert len(log.entries) == 2, "a group of refusals writes nothing"


async def test_a_draft_is_never_seen_before_it_is_durable():
    log = MemoryLog()
    async with a_store(log) as store:
        log.gate.clear()
        waiting = asyncio.ensure_future(store.update(put("a")))
        for _ in range(10):
            await asyncio.sleep(0)
        assert store.state.get(ROWS, "a") is None
        log.gate.set()
        await waiting
        assert store.state.get(ROWS, "a") is not None


@pytest.mark.parametrize("kind", [StorageFull, NotLeader, OutcomeUnknown])
async def test_a_failed_commit_tells_everybody_in_the_group_and_later_groups_go_on(kind):
    log = MemoryLog()
    async with a_store(log) as store:
        log.fails = [kind("why")]
        answers = await asyncio.gather(
            store.update(put("a")), store.update(put("b")), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [kind, kind]
        assert store.state.count(ROWS) == 0
        await store.update(put("c"))
        assert [row.id for row in store.state.scan(ROWS)] == ["c"]


async def test_a_refusal_judged_on_a_draft_that_failed_is_not_given():
    log = MemoryLog()
    async with a_store(log) as store:
        log.fails = [StorageFull("full")]
        answers = await asyncio.gather(
            store.update(create("a")), store.update(create("a")), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [StorageFull, StorageFull]


async def test_a_result_or_refusal_without_a_write_is_given_only_when_confirmed():
    log = MemoryLog()
    async with a_store(log) as store:
        await store.update(create("a"))
        log.barrier_fails = [NotLeader("cut off"), NotLeader("cut off")]
        with pytest.raises(NotLeader):
            await store.update(lambda tx: tx.get(ROWS, "a"))
        with pytest.raises(NotLeader):
            await store.update(create("a"))
        with pytest.raises(Conflict):
            await store.update(create("a"))


async def test_a_superseded_group_is_told_to_ask_again_and_changed_nothing():
    log = MemoryLog()
    async with a_store(log) as store:
        await store.update(put("a", 1))
        earlier = log.entries[0]
        log.gate.clear()
        waiting = asyncio.ensure_future(store.update(put("a", 2)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not log.machine.apply(earlier), "made from version 0"
        assert store.state.version == 1
        from_another_master = Store(sim_env(2), other := MemoryLog(), Schema(ROWS, OTHERS))
        await from_another_master.start()
        assert other.machine.apply(earlier)
        work = asyncio.ensure_future(from_another_master.run())
        await from_another_master.update(put("a", 3))
        work.cancel()
        assert log.machine.apply(other.entries[0])
        log.gate.set()
        with pytest.raises(NotLeader, match="ask again"):
            await waiting
        assert store.state.get(ROWS, "a") == Row("a", 3)


async def test_a_writer_that_dies_says_outcome_unknown_and_takes_run_down():
    log = MemoryLog()
    store = Store(sim_env(1), log, Schema(ROWS))
    await store.start()
    work = asyncio.ensure_future(store.run())
    log.fails = [LogFailed("fsync")]
    with pytest.raises(OutcomeUnknown):
        await store.update(put("a"))
    with pytest.raises(ExceptionGroup) as group:
        await work
    assert group.group_contains(LogFailed)


async def test_closing_answers_those_who_still_wait():
    store = Store(sim_env(1), MemoryLog(), Schema(ROWS))
    await store.start()
    waiting = asyncio.ensure_future(store.update(put("a")))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(NotLeader):
        await waiting


async def test_one_transaction_is_bounded():
    def huge(tx: Transaction) -> None:
        for number in range(3):
            tx.put(ROWS, Row(f"{number}" * 400_000))

    async with a_store(MemoryLog()) as store:
        with pytest.raises(TooLarge):
            await store.update(huge)
        assert store.state.count(ROWS) == 0


class Burning:
    """A function that uses so many seconds of the processor in its first run, second run, …"""

    def __init__(self, env: Env, *seconds: float) -> None:
        self._clock = cast("SimClock", env.clock)
        self._seconds = list(seconds)
        self.runs = 0

    def __call__(self, tx: Transaction) -> str:
        self._clock.burnt += self._seconds[self.runs]
        self.runs += 1
        tx.put(ROWS, Row("burnt", self.runs))
        return "done"


async def test_a_loop_that_had_nothing_to_write_asks_nobody_and_its_writes_are_commits():
    log = MemoryLog()
    async with a_store(log) as store:
        await store.tend(lambda tx: tx.get(ROWS, "a"))
        assert (log.barriers, len(log.entries)) == (0, 0)
        await store.tend(put("a"))
        assert (log.barriers, len(log.entries)) == (0, 1)
        await asyncio.gather(store.tend(lambda tx: None), store.update(lambda tx: None))
        assert (log.barriers, len(log.entries)) == (1, 1)


async def test_a_loop_hears_that_its_change_was_refused_or_not_committed():
    log = MemoryLog()
    async with a_store(log) as store:
        await store.tend(create("a"))
        with pytest.raises(Conflict):
            await store.tend(create("a"))
        log.fails = [NotLeader("gone")]
        with pytest.raises(NotLeader):
            await store.tend(put("b"))


async def test_a_function_over_its_budget_is_refused_and_the_others_of_its_group_go_on():
    log = MemoryLog()
    async with a_store(log, env := sim_env(1)) as store:
        slow = Burning(env, 0.030, 0.032, 0.031)
        answers = await asyncio.gather(
            store.update(put("a")),
            store.update(slow),
            store.update(put("b")),
            return_exceptions=True,
        )
        assert isinstance(answers[1], TooLarge)
        assert "took 31 ms of at most 20 ms" in str(answers[1])
        assert "split it into smaller batches" in str(answers[1])
        assert [row.id for row in store.state.scan(ROWS)] == ["a", "b"]
        assert len(log.entries) == 1


async def test_a_slow_run_is_not_held_against_a_function():
    async with a_store(MemoryLog(), env := sim_env(1)) as store:
        starved = Burning(env, 0.150, 0.061, 0.010)
        assert await store.update(starved) == "done"
        assert store.state.get(ROWS, "burnt") == Row("burnt", 3)


async def test_the_garbage_of_others_is_not_collected_at_a_functions_expense():
    async with a_store(MemoryLog()) as store:
        assert await store.update(lambda _: gc.isenabled()) is False
        assert gc.isenabled()


async def test_what_is_far_over_its_budget_does_not_stop_the_loop_a_second_time():
    async with a_store(MemoryLog(), env := sim_env(1)) as store:
        endless = Burning(env, 0.201, 0.0)
        with pytest.raises(TooLarge):
            await store.update(endless)
        assert endless.runs == 1


async def test_a_caller_may_state_a_larger_budget():
    async with a_store(MemoryLog(), env := sim_env(1)) as store:
        heavy = Burning(env, 0.5)
        assert await store.update(heavy, budget_seconds=1.0) == "done"


async def test_writing_what_is_there_already_writes_nothing():
    log = MemoryLog()
    async with a_store(log) as store:
        await store.update(put("a", 1))
        await store.update(put("a", 1))
        await store.update(lambda tx: tx.delete(ROWS, "never there"))
        assert len(log.entries) == 1


async def test_indexes_follow_every_change_of_a_row():
    async with a_store(MemoryLog()) as store:
        await store.update(put("a", 1, "x"))
        await store.update(put("b", 1, "x"))
        await store.update(put("c", 1))
        assert [r.id for r in store.state.find(ROWS, "group", "x")] == ["a", "b"]
        before = store.state
        await store.update(put("a", 1, "y"))
        await store.update(lambda tx: tx.delete(ROWS, "b"))
        assert store.state.find(ROWS, "group", "x") == []
        assert [r.id for r in store.state.find(ROWS, "group", "y")] == ["a"]
        assert [r.id for r in before.find(ROWS, "group", "x")] == ["a", "b"], "states never change"


async def test_a_row_that_this_master_cannot_decode_is_kept_and_passed_on():
    async with a_store(MemoryLog()) as store:
        await store.update(put("a", 1, "x"))
        strange = store.state.changed("rows", ("s",), b"\xc1").changed("newer", ("k",), b"any")
        kept = sorted((table, key) for table, key, _ in strange.raw_rows())
        assert kept == [("newer", ("k",)), ("rows", ("a",)), ("rows", ("s",))]
        assert [r.id for r in strange.find(ROWS, "group", "x")] == ["a"]
        with pytest.raises(msgspec.MsgspecError):
            strange.get(ROWS, "s")


async def test_a_follower_begins_with_everything_and_then_hears_its_tables_only():
    async with a_store(MemoryLog()) as store:
        with store.follow(ROWS) as follower:
            assert (await follower.next()).everything
            await store.update(put("a"))
            await store.update(put("b"))
            changed = await follower.next()
            assert not changed.everything
            assert changed.of("rows") == {("a",), ("b",)}
            await store.update(lambda tx: tx.put(OTHERS, Row("o")))
            assert (await follower.next(timeout=0)).keys == {}


async def test_a_feed_gives_every_commit_in_order_and_cuts_off_who_is_too_slow():
    async with a_store(MemoryLog()) as store:
        with store.feed(limit=3) as feed:
            for number in range(3):
                await store.update(put("a", number))
            for number in range(3):
                commit = await feed.next()
                assert commit.after.get(ROWS, "a") == Row("a", number)
                assert commit.before.version == number
            for number in range(4):
                await store.update(put("b", number))
            with pytest.raises(FeedOverrun):
                await feed.next()
            await store.update(put("c"))
            assert (await feed.next()).after.get(ROWS, "c") is not None


async def test_a_restored_store_tells_followers_to_look_at_everything_and_cuts_feeds():
    async with a_store(MemoryLog()) as source, a_store(MemoryLog()) as target:
        for number in range(1200):
            source_row = Row(f"r{number}", number, "g" if number % 2 else None)
            await source.update(lambda tx, row=source_row: tx.put(ROWS, row))
        with target.follow(ROWS) as follower, target.feed() as feed:
            await follower.next()
            restore(target, source.capture())
            assert (await follower.next()).everything
            with pytest.raises(FeedOverrun):
                await feed.next()
        assert [*target.state.raw_rows()] == [*source.state.raw_rows()]
        assert target.state.version == source.state.version
        assert len(target.state.find(ROWS, "group", "g")) == 600


async def test_a_capture_is_of_the_moment_it_was_asked_for():
    async with a_store(MemoryLog()) as store:
        await store.update(put("a", 1))
        parts = store.capture()
        await store.update(put("a", 2))
        other = Store(sim_env(1), MemoryLog(), Schema(ROWS))
        restore(other, parts)
        assert other.state.get(ROWS, "a") == Row("a", 1)


async def test_a_capture_that_is_not_whole_is_refused_and_changes_nothing():
    async with a_store(MemoryLog()) as store:
        for number in range(600):
            await store.update(put(f"r{number}"))
        parts = [*store.capture()]
        before = store.state
        for broken in ([], parts[:-1], parts[:1]):
            with pytest.raises(ValueError):
                restore(store, broken)
        assert store.state is before


async def test_a_capture_is_of_the_moment_of_the_call_whenever_its_parts_are_made():
    async with a_store(MemoryLog()) as store:
        await store.update(put("a"))
        parts = store.capture()
        await store.update(put("b"))
        other = Store(sim_env(1), MemoryLog(), Schema(ROWS))
        restore(other, list(parts))
        assert [row.id for row in other.state.scan(ROWS)] == ["a"]
        assert other.state.version == store.state.version - 1


async def test_marks_are_taken_while_applying_and_begin_anew_behind_a_snapshot():
    async with a_store(MemoryLog()) as one, a_store(MemoryLog()) as other:
        for number in range(1000):
            await one.update(put("a", number))
        assert one.marks == {1000: one.state.digest}
        restore(other, one.capture())
        assert other.marks == {}
        restore(one, [*other.capture()])
        assert one.marks == {}
