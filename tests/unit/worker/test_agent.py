"""The agent tells everything that changes, whenever it changes."""

import asyncio
import builtins
from typing import Any

from fake_guardian import a_fencing
from fake_runtime import FakeRuntime
from orca_common.real import real_env
from orca_proto import worker_pb2 as pb
from orca_worker.agent import Agent
from orca_worker.prober import NetworkProber
from orca_worker.runtime.port import Container


class SlowToList(FakeRuntime):
    """Its list is old when it is given: things go on while it is made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.listing, self.may_answer = asyncio.Event(), asyncio.Event()

    async def list(self) -> builtins.list[Container]:
        found = await super().list()
        self.listing.set()
        await self.may_answer.wait()
        return found


async def test_what_changes_while_the_inventory_is_made_is_in_it() -> None:
    env = real_env(threads=1)
    runtime = SlowToList(env)
    agent = Agent(
        env, {"docker": runtime}, NetworkProber(), a_fencing(env), cluster="test", node="n1"
    )
    running = asyncio.create_task(agent.run())
    inventory = asyncio.create_task(agent.inventory())
    try:
        async with asyncio.timeout(60):
            await runtime.listing.wait()
            task = pb.Task(id="t1", service="web", spec_hash="h", wanted=pb.WANTED_RUN)
            spec = pb.TaskSpec(runtime="docker", image="app:1")
            await agent.apply(
                pb.Assignments(revision=pb.Revision(version=1), tasks=[task], specs={"h": spec})
            )
            while [status.state for status in await agent.changes()] != [pb.TASK_STATE_RUNNING]:
                pass
            runtime.may_answer.set()
            told = await inventory
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert [(status.id, status.state) for status in told] == [("t1", pb.TASK_STATE_RUNNING)]


async def test_what_is_ready_goes_on_for_its_stop_delay_and_says_so_at_once() -> None:
    env = real_env(threads=1)
    runtime = FakeRuntime(env)
    agent = Agent(
        env, {"docker": runtime}, NetworkProber(), a_fencing(env), cluster="test", node="n1"
    )
    running = asyncio.create_task(agent.run())
    specs = {
        delay: pb.TaskSpec(runtime="docker", image="app:1", stop_delay_seconds=float(delay))
        for delay in ("0", "1000")
    }

    def listed(version: int, wanted: pb.Wanted.ValueType) -> pb.Assignments:
        tasks = [pb.Task(id=delay, spec_hash=delay, wanted=wanted) for delay in specs]
        return pb.Assignments(revision=pb.Revision(version=version), tasks=tasks, specs=specs)

    async def until(**states: pb.TaskState.ValueType) -> dict[str, pb.TaskStatus]:
        while True:
            told.update({status.id: status for status in await agent.changes()})
            if all(told[name[1:]].state == state for name, state in states.items()):
                return told

    told: dict[str, pb.TaskStatus] = {name: pb.TaskStatus() for name in specs}
    try:
        async with asyncio.timeout(60):
            await agent.apply(listed(1, pb.WANTED_RUN))
            await until(_0=pb.TASK_STATE_RUNNING, _1000=pb.TASK_STATE_RUNNING)
            await agent.apply(listed(2, pb.WANTED_STOP))
            await until(_0=pb.TASK_STATE_GONE, _1000=pb.TASK_STATE_STOPPING)
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert not told["1000"].healthy
    assert [task for _, verb, task in runtime.history if verb == "stop"] == ["0"]


async def test_a_start_that_waits_for_the_engine_takes_the_account_that_is_newest_then() -> None:
    env = real_env(threads=1)
    runtime = FakeRuntime(env)
    agent = Agent(
        env, {"docker": runtime}, NetworkProber(), a_fencing(env), cluster="test", node="n1"
    )
    running = asyncio.create_task(agent.run())
    task = pb.Task(id="t1", project="shop", service="web", spec_hash="h", wanted=pb.WANTED_RUN)
    spec = pb.TaskSpec(runtime="docker", image="R.example/app:1")

    def listed(version: int, **passwords: str) -> pb.Assignments:
        accounts = [
            pb.RegistryAccount(project=project, host="r.example", username="me", password=password)
            for project, password in passwords.items()
        ]
        revision = pb.Revision(version=version)
        return pb.Assignments(revision=revision, tasks=[task], specs={"h": spec}, accounts=accounts)

    try:
        async with asyncio.timeout(60):
            runtime.away = "no engine"
            await agent.apply(listed(2, shop="old", other="of another project"))
            while "no engine" not in [status.reason for status in await agent.changes()]:
                pass
            await agent.apply(listed(3, shop="new", other="of another project"))
            await agent.apply(listed(1, shop="older"))
            runtime.away = ""
            while [status.state for status in await agent.changes()] != [pb.TASK_STATE_RUNNING]:
                pass
    finally:
        running.cancel()
        await asyncio.wait({running})
    ((image, account),) = runtime.machine.accounts
    assert account is not None
    assert (image, account.password) == ("R.example/app:1", "new")
