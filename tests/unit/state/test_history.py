"""The history: in the log's order, once each, fetched from others and believed only if it fits."""

import asyncio
import contextlib
import random
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from memory_log import MemoryLog

from orca_common.env import Env
from orca_common.real import SystemDisk
from orca_master.errors import NotReady, StorageFull, TooLarge
from orca_master.state import entry as codec
from orca_master.state.history.event import BEGINNING, Event, Head, Record, placed
from orca_master.state.history.file import Batch, DamagedHistory, HistoryFile
from orca_master.state.history.keeper import History, HistorySource
from orca_master.state.log import restore
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table
from sim.env import sim_env
from sim.virtual_time import run_virtual


class Row(msgspec.Struct, frozen=True):
    id: str


class Happened(msgspec.Struct, frozen=True):
    what: str


ROWS = Table("rows", Row, key=lambda r: (r.id,))


class Master:
    """A store and its history in a folder, on a log in memory."""

    def __init__(self, folder: Path, sources: Sequence[HistorySource] | None = None) -> None:
        self.env: Env = sim_env(1, SystemDisk())
        self.log = MemoryLog()
        self.history = History(
            self.env,
            str(folder / "history.db"),
            sources=None if sources is None else lambda: sources,
        )
        self.store = Store(self.env, self.log, Schema(ROWS), self.history)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Master"]:
        work: asyncio.Future[None] | None = None
        try:
            await self.store.start()
            work = asyncio.ensure_future(self.store.run())
            yield self
        finally:
            if work is not None:
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work
            await self.store.close()

    async def happen(self, *what: str, kind: str = "deployed", subject: str = "web") -> None:
        def record(tx) -> None:
            for each in what:
                tx.record(kind, subject, Happened(each))

        await self.store.update(record)

    async def told(self, **query) -> list[str]:
        return [event.decode(Happened).what for event in await self.history.query(**query)]


class Source:
    """Another master's history; `change` may make a liar of it, `gate` holds it back."""

    def __init__(self, history: History, change=lambda events: events) -> None:
        self.name = "other"
        self._history = history
        self._change = change
        self.asked: list[tuple[int, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def events(self, after: int, up_to: int) -> AsyncIterator[Sequence[Event]]:
        self.asked.append((after, up_to))
        await self.gate.wait()
        async for batch in self._history.events(after, up_to):
            yield self._change(list(batch))


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_what_was_recorded_is_read_newest_first(tmp_path):
    async with Master(tmp_path).running() as master:
        await master.happen("1", "2")
        await master.store.update(lambda tx: tx.put(ROWS, Row("a")))
        await master.happen("3", kind="stopped")
        await master.happen("4", subject="db")
        assert await master.told() == ["4", "3", "2", "1"]
        assert await master.told(kind="deployed") == ["4", "2", "1"]
        assert await master.told(subject="web") == ["3", "2", "1"]
        assert await master.told(kind="deployed", subject="web") == ["2", "1"]
        assert await master.told(limit=2) == ["4", "3"]
        assert await master.told(before=(3, 1)) == ["2", "1"]
        assert await master.told(after=(1, 1), before=(4, 1)) == ["3", "2"]
        first = (await master.history.query(before=(1, 2)))[0]
        assert (first.version, first.n, first.kind, first.subject) == (1, 1, "deployed", "web")
        for limit in (0, 1001):
            with pytest.raises(ValueError):
                await master.history.query(limit=limit)


async def test_a_refused_transaction_records_nothing(tmp_path):
    def refuse(tx) -> None:
        tx.record("deployed", "web", Happened("never"))
        raise KeyError

    def too_large(tx) -> None:
        tx.record("deployed", "web", Happened("x" * 70_000))

    async with Master(tmp_path).running() as master:
        with pytest.raises(KeyError):
            await master.store.update(refuse)
        with pytest.raises(TooLarge, match="blob"):
            await master.store.update(too_large)
        assert await master.told() == []
        assert master.store.state.history == BEGINNING


async def test_a_store_without_a_history_does_not_lose_events_silently():
    store = Store(sim_env(1), MemoryLog(), Schema(ROWS))
    await store.start()
    work = asyncio.ensure_future(store.run())
    with pytest.raises(RuntimeError, match="without a history"):
        await store.update(lambda tx: tx.record("a", "b", Happened("c")))
    work.cancel()


async def test_replayed_entries_change_nothing_whatever_the_file_holds_already(tmp_path):
    async with Master(tmp_path / "one").running() as one:
        copies = []
        for number in range(12):
            await one.happen(f"{number}a", f"{number}b")
            await one.history.query(limit=1)  # so that it is in the file
            (copy := tmp_path / f"copy{number}").mkdir()
            for file in (tmp_path / "one").iterdir():
                shutil.copy(file, copy)
            copies.append(copy)
        expected = await one.history.query(limit=1000)
        snapshot, entries = [*one.store.capture()], one.log.entries
    for copy in copies:
        replayed = Master(copy)
        for entry in entries:
            assert replayed.store.apply(entry)
        async with replayed.running():
            assert await replayed.history.query(limit=1000) == expected
    ahead = Master(copies[-1])
    restore(ahead.store, snapshot)
    async with ahead.running():
        assert await ahead.history.query(limit=1000) == expected


async def test_a_snapshot_is_whole_only_when_the_history_is_durable(tmp_path):
    async with Master(tmp_path).running() as master:
        await master.happen("1")
        await master.store.update(lambda tx: tx.put(ROWS, Row("a")))
        parts = master.store.capture()
        await master.happen("2")
        said = [next(parts)]
        db = sqlite3.connect(f"file:{tmp_path}/history.db?mode=ro", uri=True)
        assert db.execute("SELECT * FROM durable").fetchall() == []
        said += parts
        assert db.execute("SELECT * FROM durable").fetchall() == [(3,)]
        db.close()
        assert codec.restore(Schema(ROWS), said).history.version == 1


async def test_a_snapshot_does_not_become_whole_behind_a_closed_history(tmp_path):
    async with Master(tmp_path).running() as master:
        await master.happen("1")
        parts = master.store.capture()
    with pytest.raises(OSError, match="closed"):
        list(parts)


async def test_what_a_snapshot_leaves_out_is_fetched_and_then_seen_as_one(tmp_path):
    async with Master(tmp_path / "one").running() as one:
        await one.happen("1")
        early = Master(tmp_path / "two", [source := Source(one.history)])
        async with early.running() as two:
            source.gate.clear()
            assert two.log.machine.apply(one.log.entries[0])
            for number in range(2, 700):
                await one.happen(f"{number}a", f"{number}b")
            restore(two.store, [*one.store.capture()])
            await one.happen("700")
            assert two.store.apply(one.log.entries[-1])
            with pytest.raises(NotReady, match="versions 1 to 699"):
                await two.history.query()
            source.gate.set()
            await until(lambda: two.history.is_whole)
            assert source.asked == [(1, 699)]
            assert await two.history.query(limit=1000) == await one.history.query(limit=1000)
            assert await two.told(before=(3, 1)) == ["2b", "2a", "1"]


def changed(events: list[Event]) -> list[Event]:
    return [events[0]._replace(data=b"forged"), *events[1:]]


def rechained(events: list[Event]) -> list[Event]:
    """Forged so that each follows from the one before."""
    head, forged = BEGINNING, []
    for event in events:
        forged += placed(head, event.version, [Record(event.kind, event.subject, b"forged")])
        head = Head(event.version, forged[-1].chain)
    return forged


LIES = [changed, rechained, lambda events: events[1:], lambda events: events[:-1], lambda _: []]


@pytest.mark.parametrize(
    "lie", LIES, ids=["changed", "rechained", "begins late", "ends early", "empty"]
)
async def test_a_source_that_lies_is_refused_and_another_is_asked(tmp_path, lie):
    async with Master(tmp_path / "one").running() as one:
        for number in range(1, 6):
            await one.happen(str(number))
        honest, liar = Source(one.history), Source(one.history, lie)
        two = Master(tmp_path / "two", [liar, honest])
        restore(two.store, [*one.store.capture()])
        async with two.running():
            await until(lambda: two.history.is_whole)
            assert (len(liar.asked), len(honest.asked)) == (1, 1)
            assert await two.history.query() == await one.history.query()


async def test_nothing_of_a_lie_is_ever_seen_and_the_gap_stays(tmp_path):
    async with Master(tmp_path / "one").running() as one:
        for number in range(1, 6):
            await one.happen(str(number))
        liar = Source(one.history, changed)
        two = Master(tmp_path / "two", [liar])
        restore(two.store, [*one.store.capture()])
        async with two.running():
            await until(lambda: liar.asked)
            with pytest.raises(NotReady):
                await two.history.query()
            with pytest.raises(NotReady):
                await anext(two.history.events(0, 5))


async def test_if_all_others_contradict_what_is_here_it_is_this_one_that_is_fetched_anew(tmp_path):
    async with Master(tmp_path / "one").running() as one:
        async with Master(tmp_path / "two").running() as stranger:
            await stranger.happen("of another history")
            assert await stranger.told() == ["of another history"]
        for number in range(1, 6):
            await one.happen(str(number))
        two = Master(tmp_path / "two", [source := Source(one.history)])
        restore(two.store, [*one.store.capture()])
        async with two.running():
            await until(lambda: two.history.is_whole)
            assert source.asked == [(1, 5), (0, 5)]
            assert await two.told() == ["5", "4", "3", "2", "1"]
    assert (tmp_path / "two" / "history.db.damaged-1").exists()


def garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 500)


def torn_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for offset in range(4096, len(data), 4096):
        data[offset : offset + 64] = random.Random(3).randbytes(64)
    path.write_bytes(data)


def edited_tail(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("UPDATE events SET subject = 'other' WHERE version = 4")
    db.commit()
    db.close()


def emptied(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("DROP TABLE events")
    db.commit()
    db.close()


DAMAGES = [garbage, torn_pages, edited_tail, emptied]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_put_aside_and_fetched_from_others(tmp_path, damage):
    async with Master(tmp_path / "one").running() as one:
        for number in range(1, 6):
            await one.happen(str(number))
        snapshot = [*one.store.capture()]
        whole = await one.history.query()
        two = Master(tmp_path / "two", [])
        for entry in one.log.entries:
            two.store.apply(entry)
        async with two.running():
            assert await two.history.query() == whole
        damage(tmp_path / "two" / "history.db")
        again = Master(tmp_path / "two", [Source(one.history)])
        restore(again.store, snapshot)
        async with again.running():
            await until(lambda: again.history.is_whole)
            assert await again.history.query() == whole
        assert (tmp_path / "two" / "history.db.damaged-1").exists()


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink])
async def test_a_single_master_refuses_to_start_without_its_history(tmp_path, damage):
    async with Master(tmp_path).running() as one:
        for number in range(1, 6):
            await one.happen(str(number))
        snapshot = [*one.store.capture()]
    damage(tmp_path / "history.db")
    again = Master(tmp_path)
    restore(again.store, snapshot)
    with pytest.raises(DamagedHistory, match="Put back the history file of a backup"):
        async with again.running():
            pass


async def test_the_history_of_another_log_is_noticed_when_the_log_goes_on(tmp_path):
    async with Master(tmp_path).running() as one:
        await one.happen("of one log")
        assert await one.told() == ["of one log"]
    other = Master(tmp_path)
    await other.store.start()
    work = asyncio.ensure_future(other.store.run())
    await other.happen("of another")
    with pytest.raises(ExceptionGroup) as raised:
        await work
    assert raised.group_contains(DamagedHistory)
    await other.store.close()


async def test_a_full_disk_loses_nothing_and_stops_recording_only_when_much_waits(tmp_path):
    big = [Happened("x" * 60_000)] * 17

    def record_much(tx) -> None:
        for event in big:
            tx.record("deployed", "web", event)

    async with Master(tmp_path).running() as master:
        await master.happen("1")
        await master.told()
        db = master.history._file._db
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        while not master.history.is_behind:
            await master.store.update(record_much)
        with pytest.raises(StorageFull, match="make space"):
            await master.store.update(record_much)
        with pytest.raises(OSError, match="No space"):
            [*master.store.capture()]
        recorded = 1 + 17 * (master.store.state.version - 1)
        db.execute("PRAGMA max_page_count = 1000000")
        assert len(await master.history.query(limit=1000)) == min(1000, recorded)
        assert len([*master.store.capture()]) > 0
        await master.happen("last")
        assert await master.told(limit=1) == ["last"]


def test_a_full_disk_is_waited_for_while_a_gap_is_filled(tmp_path):
    async def fill() -> None:
        async with Master(tmp_path / "one").running() as one:
            for _ in range(20):
                await one.happen(*["x" * 10_000] * 10)
            source = Source(one.history)
            source.gate.clear()
            two = Master(tmp_path / "two", [source])
            restore(two.store, [*one.store.capture()])
            async with two.running():
                while not source.asked:
                    await asyncio.sleep(0)
                db = two.history._file._db
                db.execute("PRAGMA max_page_count = 100")
                source.gate.set()
                while len(source.asked) < 3:
                    await asyncio.sleep(1)
                assert not two.history.is_whole
                db.execute("PRAGMA max_page_count = 1000000")
                while not two.history.is_whole:
                    await asyncio.sleep(1)
                assert await two.history.query(limit=1000) == await one.history.query(limit=1000)

    run_virtual(fill())


async def test_damage_that_is_seen_while_reading_is_mended_from_others(tmp_path):
    async with Master(tmp_path / "one").running() as one:
        for number in range(1, 6):
            await one.happen(str(number))
        two = Master(tmp_path / "two", [Source(one.history)])
        for entry in one.log.entries:
            two.store.apply(entry)
        async with two.running():
            await two.told()
            two.history._file._db.execute("DROP TABLE events")
            with pytest.raises(NotReady, match="fetched anew"):
                await two.told()
            await until(lambda: two.history.is_whole)
            assert await two.told() == ["5", "4", "3", "2", "1"]


def test_a_hundred_thousand_events_are_found_at_once(tmp_path):
    file = HistoryFile(SystemDisk(), str(tmp_path / "history.db"))
    head = BEGINNING
    for version in range(1, 1001):
        records = [
            Record(f"kind{n % 10}", f"subject{(version * 100 + n) % 1000}", b"x" * 100)
            for n in range(100)
        ]
        events = placed(head, version, records)
        file.take([Batch(head, events)])
        head = Head(version, events[-1].chain)
    queries = [
        {},
        {"kind": "kind3"},
        {"subject": "subject77"},
        {"kind": "kind7", "subject": "subject77"},
        {"before": (500, 1)},
        {"after": (499, 1), "before": (500, 1), "kind": "kind3"},
        {"subject": "nobody"},
    ]
    for query in queries:
        started = time.thread_time()
        found = file.select(**query, limit=100)
        assert time.thread_time() - started < 0.05, query
        places = [(event.version, event.n) for event in found]
        assert places == sorted(places, reverse=True)
        assert len(found) == {"nobody": 0}.get(query.get("subject"), len(found))
    file.close()
    again = HistoryFile(SystemDisk(), str(tmp_path / "history.db"))
    assert again.last == head
    again.close()
