"""An engine that does not answer: nothing fails, the state says so, and all goes on when it is back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fake_guardian import a_fencing
from fake_runtime import FakeRuntime, Machine
from orca_common.real import real_env
from orca_proto import worker_pb2 as pb
from orca_worker.agent import Agent
from orca_worker.prober import NetworkProber
from orca_worker.runtime.port import RuntimeAway

AWAY = "the container engine at /x cannot be reached"


@asynccontextmanager
async def working(runtime: FakeRuntime) -> AsyncIterator[Agent]:
    agent = Agent(
        real_env(threads=1),
        {"docker": runtime},
        NetworkProber(),
        a_fencing(real_env(threads=1)),
        cluster="test",
        node="n1",
    )
    running = asyncio.create_task(agent.run())
    try:
        async with asyncio.timeout(60):
            yield agent
    finally:
        running.cancel()
        await asyncio.wait({running})


async def give(agent: Agent, version: int, *ids: str) -> None:
    tasks = [pb.Task(id=id, service="web", spec_hash="h", wanted=pb.WANTED_RUN) for id in ids]
    spec = pb.TaskSpec(runtime="docker", image="app:1")
    revision = pb.Revision(version=version)
    await agent.apply(pb.Assignments(revision=revision, tasks=tasks, specs={"h": spec}))


async def told(agent: Agent, id: str, state: int, reason: str = "") -> pb.TaskStatus:
    while True:
        for status in await agent.changes():
            assert status.state != pb.TASK_STATE_FAILED
            if (status.id, status.state, status.reason) == (id, state, reason):
                return status


async def test_what_runs_goes_on_and_says_why_nothing_newer_is_known() -> None:
    runtime = FakeRuntime(real_env(threads=1))
    async with working(runtime) as agent:
        await agent.inventory()
        await give(agent, 1, "t1")
        await told(agent, "t1", pb.TASK_STATE_RUNNING)
        runtime.away = AWAY
        runtime.lose_watchers()
        lost = await told(agent, "t1", pb.TASK_STATE_RUNNING, AWAY)
        assert lost.healthy
        assert (await agent.used()).memory_bytes == 0
        (known,) = await agent.inventory()
        assert (known.id, known.state) == ("t1", pb.TASK_STATE_RUNNING)
        runtime.away = ""
        back = await told(agent, "t1", pb.TASK_STATE_RUNNING)
        assert back.healthy
        runtime.crash("t1", 7)
        assert (await told(agent, "t1", pb.TASK_STATE_EXITED)).exit_code == 7


async def test_what_ended_while_the_engine_was_away_is_told_with_its_code() -> None:
    runtime = FakeRuntime(real_env(threads=1))
    async with working(runtime) as agent:
        await give(agent, 1, "t1")
        await told(agent, "t1", pb.TASK_STATE_RUNNING)
        runtime.away = AWAY
        runtime.lose_watchers()
        await told(agent, "t1", pb.TASK_STATE_RUNNING, AWAY)
        runtime.crash("t1", 9)
        runtime.away = ""
        assert (await told(agent, "t1", pb.TASK_STATE_EXITED)).exit_code == 9


async def test_what_is_to_start_waits_for_the_engine() -> None:
    runtime = FakeRuntime(real_env(threads=1))
    runtime.away = AWAY
    async with working(runtime) as agent:
        await give(agent, 1, "t1")
        await told(agent, "t1", pb.TASK_STATE_PREPARING, AWAY)
        runtime.away = ""
        await told(agent, "t1", pb.TASK_STATE_RUNNING)


async def test_a_worker_that_has_just_begun_tells_nothing_until_the_engine_answers() -> None:
    machine = Machine()
    runtime = FakeRuntime(real_env(threads=1), machine=machine)
    runtime.away = AWAY
    async with working(runtime) as agent:
        with pytest.raises(RuntimeAway):
            await agent.inventory()
