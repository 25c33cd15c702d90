"""What simulations rely on beyond the port: crashes, reboots, latency, history."""

import asyncio

import pytest

from fake_runtime import FakeRuntime, Machine
from orca_common.real import real_env
from orca_proto.worker_pb2 import Task, TaskSpec
from orca_worker.runtime.port import Phase, RuntimeRefusal

LABELS = {"orca.cluster": "test", "orca.node": "n1"}


async def running(runtime: FakeRuntime, task_id: str) -> None:
    await runtime.create(Task(id=task_id), TaskSpec(image="app"), LABELS)
    await runtime.start(task_id)


async def test_a_crash_is_seen_with_its_code() -> None:
    runtime = FakeRuntime(real_env())
    async with runtime.watch() as ended:
        await running(runtime, "t")
        runtime.crash("t", 42)
        assert await anext(ended) == "t"
    found = await runtime.inspect("t")
    assert found is not None
    assert (found.phase, found.exit_code) == (Phase.EXITED, 42)
    assert [verb for _, verb, _ in runtime.history] == ["create", "start", "crash"]


async def test_a_reboot_ends_everything_and_breaks_the_watch() -> None:
    runtime = FakeRuntime(real_env())
    await running(runtime, "t")
    async with runtime.watch() as ended:
        runtime.lose_all()
        assert await anext(ended) == "t"
        with pytest.raises(RuntimeRefusal):
            await anext(ended)
    assert [container.exit_code for container in await runtime.list()] == [137]


async def test_images_are_pulled_or_missing_with_a_reason() -> None:
    machine = Machine(images=set(), registry={"gone:1": "image gone:1 not found"})
    runtime = FakeRuntime(real_env(), machine=machine)
    with pytest.raises(RuntimeRefusal, match="gone:1 not found"):
        await runtime.prepare(TaskSpec(image="gone:1"))
    with pytest.raises(RuntimeRefusal, match="never"):
        await runtime.prepare(TaskSpec(image="app:1", pull_policy="never"))
    await runtime.prepare(TaskSpec(image="app:1"))
    assert machine.images == {"app:1"}


async def test_removed_while_starting_is_not_started() -> None:
    runtime = FakeRuntime(real_env(), start_seconds=0.05)
    await runtime.create(Task(id="t"), TaskSpec(image="app"), LABELS)
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(outcome(runtime, "t"))
        await asyncio.sleep(0.01)
        await runtime.remove("t")
    assert starting.result() == "there is no container for task t"


async def outcome(runtime: FakeRuntime, task_id: str) -> str:
    try:
        await runtime.start(task_id)
    except RuntimeRefusal as refusal:
        return refusal.reason
    return ""
