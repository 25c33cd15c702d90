"""The worker's stream ends in several ways at once: whoever cancelled it sees a cancellation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fake_guardian import a_fencing
from fake_runtime import FakeRuntime
from orca_common.real import real_env
from orca_proto import worker_pb2 as pb
from orca_worker.agent import Agent
from orca_worker.ports import Link
from orca_worker.runtime.port import RuntimeRefusal
from orca_worker.session import Facts, Session


class Healthy:
    async def check(self, probe: pb.Probe, host: str, port: int) -> str | None:
        return None


class Breaking:
    """A master that welcomes; when it breaks, reading ends and sending fails in the same moment."""

    master_count = 1

    def __init__(self) -> None:
        self.breaks = asyncio.Event()
        self.beating, self.reading = asyncio.Event(), asyncio.Event()
        self._welcomed = False

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        yield self

    def know(self, masters: list[str]) -> None:
        """Not asked here."""

    async def send(self, message: pb.FromWorker) -> None:
        if message.WhichOneof("body") == "heartbeat":
            self.beating.set()
            await self.breaks.wait()
            raise ConnectionError("the stream is closed")

    async def receive(self) -> pb.FromMaster | None:
        if not self._welcomed:
            self._welcomed = True
            return pb.FromMaster(welcome=pb.Welcome(cluster="c", heartbeat_seconds=1.0))
        await self.beating.wait()  # so that the beat is woken first, and both fail in one turn
        self.reading.set()
        await self.breaks.wait()
        return None


@pytest.mark.parametrize("turns", range(6))
async def test_a_stream_that_breaks_while_it_is_cancelled_is_cancelled(turns: int) -> None:
    env, master = real_env(threads=1), Breaking()
    agent = Agent(env, {"fake": FakeRuntime(env)}, Healthy(), a_fencing(env), cluster="c", node="n")
    facts = Facts("n1", "0", "", "linux", "x", {}, 1, 1)
    running = asyncio.ensure_future(Session(env, agent, master, facts).run())
    async with asyncio.timeout(10):
        await master.reading.wait()
    master.breaks.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await running


class Slowing:
    """A master that welcomes a second time, with a longer beat; `beats` counts what came since."""

    master_count = 1

    def __init__(self) -> None:
        self.welcomes = [0.01, 3600.0]
        self.beats = 0
        self.slow = asyncio.Event()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        yield self

    def know(self, masters: list[str]) -> None:
        """Not asked here."""

    async def send(self, message: pb.FromWorker) -> None:
        if message.WhichOneof("body") == "heartbeat":
            self.beats += 1

    async def receive(self) -> pb.FromMaster | None:
        if not self.welcomes:
            self.slow.set()
            await asyncio.Event().wait()
        if len(self.welcomes) == 1:
            while self.beats < 3:
                await asyncio.sleep(0.001)
        welcome = pb.Welcome(cluster="c", heartbeat_seconds=self.welcomes.pop(0))
        return pb.FromMaster(welcome=welcome)


class NoMeter(Agent):
    """Its engine is gone."""

    async def used(self) -> pb.Resources:
        raise RuntimeRefusal("the engine does not answer")


async def test_a_second_welcome_changes_the_beat_and_an_engine_that_is_gone_does_not_stop_it() -> (
    None
):
    env, master = real_env(threads=1), Slowing()
    agent = NoMeter(
        env, {"fake": FakeRuntime(env)}, Healthy(), a_fencing(env), cluster="c", node="n"
    )
    facts = Facts("n1", "0", "", "linux", "x", {}, 1, 1)
    running = asyncio.ensure_future(Session(env, agent, master, facts).run())
    async with asyncio.timeout(60):
        await master.slow.wait()
    before = master.beats
    await asyncio.sleep(0.2)
    assert master.beats <= before + 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
