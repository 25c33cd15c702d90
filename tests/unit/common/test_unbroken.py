"""Reads and writes that outlive who waits for them: nothing is lost, and the order is kept."""

import asyncio

import pytest

from orca_common.unbroken import Reads, Writes


class Wire:
    """What is read comes when the test says so; what is written arrives when it says so."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.may_arrive = asyncio.Event()
        self.arrived: list[str] = []
        self.reading = self.most_reading = 0

    async def read(self) -> str:
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        try:
            found = await self.incoming.get()
        finally:
            self.reading -= 1
        if isinstance(found, Exception):
            raise found
        return found

    async def write(self, message: str) -> None:
        await self.may_arrive.wait()
        self.arrived.append(message)


async def begun_and_left(work) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_read_that_was_begun_is_had_by_the_next_who_asks() -> None:
    wire = Wire()
    reads = Reads(wire.read)
    await begun_and_left(reads.next())
    wire.incoming.put_nowait("first")
    wire.incoming.put_nowait("second")
    assert [await reads.next(), await reads.next()] == ["first", "second"]
    assert wire.most_reading == 1
    await begun_and_left(reads.next())
    wire.incoming.put_nowait(ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        await reads.next()


async def test_a_write_that_was_begun_arrives_before_the_next_one() -> None:
    wire = Wire()
    writes = Writes(wire.write)
    await begun_and_left(writes.send("first"))
    second = asyncio.ensure_future(writes.send("second"))
    await asyncio.sleep(0)
    assert wire.arrived == []
    wire.may_arrive.set()
    await second
    assert wire.arrived == ["first", "second"]


async def test_what_was_begun_ends_with_the_stream() -> None:
    wire = Wire()
    reads = Reads(wire.read)
    await begun_and_left(reads.next())
    assert wire.reading == 1
    reads.close()
    async with asyncio.timeout(60):
        while wire.reading:
            await asyncio.sleep(0)
