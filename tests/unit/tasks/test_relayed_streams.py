"""A worker's stream from leader to leader, and who may not have one; the relays are queues."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orca_common.real import real_env
from orca_master.errors import Forbidden, NotLeader, RateLimited
from orca_master.state.log import Leadership
from orca_master.tasks import streams
from orca_master.tasks.streams import Streams
from orca_proto import worker_pb2 as pb


class Queues:
    """One end of a stream, which the test holds at the other."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[Any] = asyncio.Queue()
        self.down: asyncio.Queue[Any] = asyncio.Queue()

    async def heard(self, queue: "asyncio.Queue[Any]") -> str:
        async with asyncio.timeout(60):
            return str((await queue.get()).WhichOneof("body"))


class Link(Queues):
    """A worker's, as its master has it."""

    async def send(self, message: pb.FromMaster) -> None:
        self.down.put_nowait(message)

    async def receive(self) -> pb.FromWorker | None:
        found: pb.FromWorker | None = await self.up.get()
        return found

    def hello(self, *, can_repeat: bool = True) -> None:
        self.up.put_nowait(pb.FromWorker(hello=pb.Hello(protocol=1, can_repeat=can_repeat)))

    def beat(self) -> None:
        self.up.put_nowait(pb.FromWorker(heartbeat=pb.Heartbeat(sent_at=1.0)))


class Onward(Queues):
    """A leader's end; the test puts None (over) or an exception."""

    async def send(self, message: pb.FromWorker) -> None:
        self.up.put_nowait(message)

    async def receive(self) -> pb.FromMaster | None:
        found = await self.down.get()
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]


class Relays:
    def __init__(self) -> None:
        self.opened: asyncio.Queue[tuple[str, Onward]] = asyncio.Queue()

    @asynccontextmanager
    async def open(self, leader: str, node_id: str) -> AsyncIterator[Onward]:
        onward = Onward()
        self.opened.put_nowait((leader, onward))
        yield onward

    async def next(self) -> tuple[str, Onward]:
        async with asyncio.timeout(60):
            return await self.opened.get()


class Elections:
    """As much of a store as streams look at."""

    def __init__(self, leader: str | None) -> None:
        self.leadership = Leadership(1, False, leader)
        self._changed = asyncio.Event()

    def elect(self, leader: str | None) -> None:
        self.leadership = Leadership(self.leadership.term + 1, False, leader)
        self._changed.set()
        self._changed = asyncio.Event()

    async def leadership_change(self, seen: Leadership) -> Leadership:
        while self.leadership == seen:
            await self._changed.wait()
        return self.leadership


class Setting:
    def __init__(self, leader: str | None = "m1") -> None:
        self.elections, self.relays, self.link = Elections(leader), Relays(), Link()
        env = real_env(threads=1)
        self.streams = Streams(env, self.elections, None, self.relays)  # type: ignore[arg-type]

    def serve(self) -> "asyncio.Task[None]":
        return asyncio.ensure_future(self.streams.serve("n1", self.link))


async def ended(task: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(60):
        await task


async def test_a_worker_says_hello_again_to_a_new_leader_on_the_stream_that_it_has() -> None:
    on = Setting()
    serving = on.serve()
    on.link.hello()
    leader, first = await on.relays.next()
    assert (leader, await first.heard(first.up)) == ("m1", "hello")
    first.down.put_nowait(pb.FromMaster(welcome=pb.Welcome(cluster="c")))
    assert await on.link.heard(on.link.down) == "welcome"
    on.elections.elect(None)
    on.link.beat()
    assert await first.heard(first.up) == "heartbeat", "who is not heard of may lead still"
    on.elections.elect("m2")
    leader, second = await on.relays.next()
    assert (leader, await on.link.heard(on.link.down)) == ("m2", "again")
    on.link.beat()
    on.link.hello()
    assert await second.heard(second.up) == "hello", "what was said before is void"
    assert on.link.down.empty(), "a master that only passes on answers nothing, and no beat"
    assert (on.streams.count, on.streams.opened, on.streams.repeated) == (1, 1, 1)
    on.link.up.put_nowait(None)
    await ended(serving)
    assert on.streams.count == 0


async def test_a_leader_that_breaks_off_is_tried_again() -> None:
    on = Setting()
    serving = on.serve()
    on.link.hello()
    _, first = await on.relays.next()
    assert await first.heard(first.up) == "hello"
    first.down.put_nowait(ConnectionError("broken"))
    _, second = await on.relays.next()
    assert await on.link.heard(on.link.down) == "again"
    on.link.hello()
    assert await second.heard(second.up) == "hello"
    second.down.put_nowait(None)
    await ended(serving)


async def test_an_older_worker_is_not_asked_but_closed() -> None:
    on = Setting()
    serving = on.serve()
    on.link.hello(can_repeat=False)
    _, first = await on.relays.next()
    assert await first.heard(first.up) == "hello"
    on.elections.elect("m2")
    await ended(serving)
    assert on.link.down.empty()


async def test_a_refusal_by_the_leader_is_the_workers() -> None:
    on = Setting()
    serving = on.serve()
    on.link.hello()
    _, first = await on.relays.next()
    first.down.put_nowait(Forbidden("a copy"))
    with pytest.raises(Forbidden, match="a copy"):
        await ended(serving)


async def test_who_finds_no_leader_lets_his_workers_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LEADERLESS_SECONDS", 0.05)
    on = Setting(leader=None)
    on.link.hello()
    with pytest.raises(NotLeader):
        await ended(on.serve())


async def test_a_node_has_only_so_many_streams_cl_22() -> None:
    on = Setting()
    serving = [on.serve() for _ in range(streams.STREAMS_OF_NODE)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited, match="open already"):
        await on.streams.serve("n1", Link())
    assert on.streams.count == streams.STREAMS_OF_NODE
    for each in serving:
        each.cancel()
    await asyncio.wait(serving)
    assert on.streams.count == 0
