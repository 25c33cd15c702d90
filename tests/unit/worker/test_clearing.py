"""A node that leaves its cluster leaves nothing running, also if the machine resists for a while."""

import pytest

from fake_runtime import FakeRuntime
from orca_proto.worker_pb2 import Task, TaskSpec
from orca_worker.clearing import NotCleared, clear_all
from orca_worker.runtime.port import RuntimeRefusal
from sim.env import sim_env
from sim.virtual_time import run_virtual


class Resisting(FakeRuntime):
    """Refuses to remove what runs, so many times."""

    refusals = 0

    async def remove(self, task_id: str) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise RuntimeRefusal("directory not empty")
        await super().remove(task_id)


async def running() -> Resisting:
    runtime = Resisting(sim_env(1))
    for number in range(3):
        labels = {"orca.cluster": "test", "orca.node": "n1"}
        await runtime.create(Task(id=f"t{number}"), TaskSpec(image="app:1"), labels)
        await runtime.start(f"t{number}")
    return runtime


def test_what_resists_for_a_while_is_gone_in_the_end() -> None:
    async def test() -> None:
        runtime = await running()
        runtime.refusals = 7
        await clear_all(sim_env(1), [runtime])
        assert runtime.machine.things == {}

    run_virtual(test())


def test_what_never_goes_is_told_with_what_to_do_and_the_rest_is_gone() -> None:
    async def test() -> None:
        runtime, other = await running(), await running()
        runtime.refusals = 10_000
        with pytest.raises(
            NotCleared, match=r"directory not empty.* start the worker with --clear"
        ):
            await clear_all(sim_env(1), [other, runtime])
        assert other.machine.things == {}

    run_virtual(test())
