"""The worker's half of the lease: when it is asked for, from when it counts, and what it lets start."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_guardian import FakeGuardian
from fake_runtime import FakeRuntime
from orca_proto import worker_pb2 as pb
from orca_worker.agent import Agent
from orca_worker.fencing import Fencing, lease_until
from orca_worker.prober import NetworkProber
from orca_worker.runtime.port import Container, Phase, RuntimeRefusal
from sim.env import sim_env
from sim.virtual_time import run_virtual

GRIP: Mapping[str, Any] = {"runtime": "fake"}
seconds = st.floats(0.0, 1e6)


@given(sent=seconds, length=seconds, later=seconds)
def test_a_lease_never_lasts_longer_than_from_when_the_beat_was_sent(
    sent: float, length: float, later: float
) -> None:
    assert lease_until(sent, length, sent + later) == sent + length


def test_a_lease_for_a_beat_of_the_future_counts_from_now() -> None:
    assert lease_until(500.0, 10.0, 100.0) == 110.0


def a_fencing(guardian: FakeGuardian | None = None) -> tuple[Fencing, FakeGuardian]:
    guardian = guardian or FakeGuardian(lambda _: None)
    return Fencing(sim_env(1), guardian), guardian


def test_the_lease_is_asked_for_only_while_something_is_fenced() -> None:
    async def run() -> None:
        fencing, _ = a_fencing()
        await asyncio.sleep(5.0)
        assert fencing.asks_at() == 0.0
        await fencing.keep("t1", GRIP)
        assert fencing.asks_at() == pytest.approx(5.0)
        await fencing.leave("t1")
        assert fencing.asks_at() == 0.0

    run_virtual(run())


def test_a_start_waits_for_the_lease_and_makes_the_next_beat_leave_at_once() -> None:
    async def run() -> None:
        fencing, guardian = a_fencing()
        starting = asyncio.create_task(fencing.admit("t1", GRIP))
        await fencing.is_wanted_within(3600.0)
        now = asyncio.get_running_loop().time()
        assert now < 1.0
        assert guardian.tasks == {}  # not yet: it would be condemned for want of a lease
        await fencing.extend(now, 10.0)
        assert await starting
        assert (guardian.until, list(guardian.tasks)) == (now + 10.0, ["t1"])

    run_virtual(run())


def test_what_was_condemned_never_starts_whatever_lease_comes_later() -> None:
    async def run() -> None:
        fencing, guardian = a_fencing()
        await fencing.extend(1.0, 10.0)
        assert await fencing.admit("t1", GRIP)
        await asyncio.sleep(20.0)
        guardian.look(20.0)
        assert not await fencing.admit("t1", GRIP)
        await fencing.extend(20.0, 10.0)
        assert not await fencing.admit("t1", GRIP)
        await fencing.leave("t1")
        assert await fencing.admit("t2", GRIP)

    run_virtual(run())


def test_an_acknowledgement_that_comes_late_is_worth_what_is_left_of_it() -> None:
    async def run() -> None:
        fencing, guardian = a_fencing()
        await asyncio.sleep(30.0)
        await fencing.extend(29.0, 10.0)
        await fencing.extend(22.0, 10.0)
        assert guardian.until == 39.0

    run_virtual(run())


class Gone(FakeGuardian):
    async def extend(self, until: float) -> None:
        raise OSError("no space left")


def test_a_lease_that_no_guardian_knows_of_starts_nothing() -> None:
    async def run() -> None:
        fencing, _ = a_fencing(Gone(lambda _: None))
        starting = asyncio.create_task(fencing.admit("t1", GRIP))
        await asyncio.sleep(1.0)
        await fencing.extend(1.0, 10.0)
        await asyncio.sleep(1.0)
        assert not starting.done()
        starting.cancel()

    run_virtual(run())


def test_beats_leave_four_times_in_a_lease_however_many_nodes_there_are() -> None:
    async def run() -> None:
        fencing, _ = a_fencing()
        await fencing.extend(1.0, 10.0)
        await fencing.keep("t1", GRIP)
        fencing.asks_at()
        before = asyncio.get_running_loop().time()
        await fencing.is_wanted_within(60.0)
        assert asyncio.get_running_loop().time() - before == pytest.approx(2.5)

    run_virtual(run())


SPEC = pb.TaskSpec(runtime="docker", image="app:1")


def a_list(version: int, **fields: Any) -> pb.Assignments:
    task = pb.Task(id="t1", service="db", slot=1, spec_hash="h", wanted=pb.WANTED_RUN, **fields)
    revision = pb.Revision(version=version)
    return pb.Assignments(revision=revision, tasks=[task], specs={"h": SPEC})


@asynccontextmanager
async def an_agent(
    kind: type[FakeRuntime] = FakeRuntime,
) -> AsyncIterator[tuple[Agent, FakeRuntime, FakeGuardian]]:
    env = sim_env(1)
    runtime = kind(env)
    fencing, guardian = a_fencing()
    agent = Agent(env, {"docker": runtime}, NetworkProber(), fencing, cluster="test", node="n1")
    running = asyncio.create_task(agent.run())
    try:
        yield agent, runtime, guardian
    finally:
        running.cancel()
        await asyncio.wait({running})


def test_a_fenced_task_is_told_its_token_and_starts_only_with_the_lease() -> None:
    async def run() -> None:
        async with an_agent() as (agent, runtime, guardian):
            await agent.apply(a_list(1, fencing_token=42))
            await asyncio.sleep(5.0)
            assert runtime.machine.things["t1"].container.phase is Phase.CREATED
            await agent.fencing.extend(5.0, 10.0)
            await asyncio.sleep(1.0)
            thing = runtime.machine.things["t1"]
            assert thing.container.phase is Phase.RUNNING
            assert thing.spec.env["ORCA_FENCING_TOKEN"] == "42"
            assert list(guardian.tasks) == ["t1"]
            nothing = pb.Assignments(revision=pb.Revision(version=2), confirmed_empty=True)
            await agent.apply(nothing)
            await asyncio.sleep(1.0)
            assert guardian.tasks == runtime.machine.things == {}

    run_virtual(run())


def test_what_is_not_fenced_needs_no_lease_and_has_no_token() -> None:
    async def run() -> None:
        async with an_agent() as (agent, runtime, guardian):
            await agent.apply(a_list(1))
            await asyncio.sleep(1.0)
            thing = runtime.machine.things["t1"]
            assert thing.container.phase is Phase.RUNNING
            assert (dict(thing.spec.env), guardian.tasks) == ({}, {})

    run_virtual(run())


class StartsAndFails(FakeRuntime):
    """The engine's answer is lost: the container runs."""

    async def start(self, task_id: str) -> Container:
        await super().start(task_id)
        raise RuntimeRefusal("the engine did not answer in time")


def test_a_fenced_task_is_not_failed_before_it_certainly_does_not_run() -> None:
    async def run() -> None:
        async with an_agent(StartsAndFails) as (agent, runtime, _):
            await agent.fencing.extend(1.0, 10.0)
            await agent.apply(a_list(1, fencing_token=1))
            states = []
            while pb.TASK_STATE_FAILED not in states:
                states += [status.state for status in await agent.changes()]
            assert runtime.machine.things["t1"].container.phase is Phase.EXITED

    run_virtual(run())


def test_a_task_that_has_ended_and_is_no_longer_there_is_not_run_again() -> None:
    async def run() -> None:
        async with an_agent() as (agent, runtime, _):
            await agent.apply(a_list(1, has_ended=True))
            await asyncio.sleep(5.0)
            assert runtime.machine.things == {}
            gone = a_list(2, has_ended=True)
            gone.tasks[0].wanted = pb.WANTED_STOP
            await agent.apply(gone)
            assert [status.state for status in await agent.changes()] != []

    run_virtual(run())
