"""Which specs a worker holds, which it asks for, and what of them is on its disk."""

import asyncio
from pathlib import Path

import pytest

from fake_guardian import a_fencing
from fake_runtime import FakeRuntime, Machine
from orca_common.real import real_env
from orca_proto import worker_pb2 as pb
from orca_worker.agent import Agent
from orca_worker.prober import NetworkProber
from orca_worker.specs import MOST_AT_ONCE, Specs
from orca_worker.task import NOT_AGAIN

PLANTED = "planted-7712"


def a_spec(**fields: object) -> pb.TaskSpec:
    return pb.TaskSpec(runtime="docker", image="app:1", **fields)  # type: ignore[arg-type]


def with_values() -> pb.TaskSpec:
    content = PLANTED.encode()
    return a_spec(
        env={"PLAIN": "1"},
        secret_env={"A": PLANTED},
        secret_files=[pb.SecretFile(path="a", content=content)],
    )


async def saved(folder: Path, specs: dict[str, pb.TaskSpec]) -> None:
    """As a worker leaves them that held these."""
    env = real_env(threads=1)
    kept = Specs(env, str(folder))
    running = asyncio.create_task(kept.run())
    kept.hold(specs)
    async with asyncio.timeout(60):
        while sorted(path.name for path in folder.glob("*")) != sorted(specs):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})


async def loaded(folder: Path) -> Specs:
    specs = Specs(real_env(threads=1), str(folder))
    await specs.load()
    return specs


async def test_values_of_secrets_are_not_on_disk_and_are_asked_for_before_a_start(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "specs"
    await saved(folder, {"plain": a_spec(command=["x"]), "secret": with_values()})
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert PLANTED.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    specs = await loaded(folder)
    assert specs.held("plain", for_start=True) == a_spec(command=["x"])
    assert specs.held("secret", for_start=True) is None
    for_what_runs = specs.held("secret", for_start=False)
    assert for_what_runs == a_spec(env={"PLAIN": "1"}, lacks_values=True)


async def test_what_a_power_loss_tore_is_asked_for_again(tmp_path: Path) -> None:
    await saved(tmp_path / "s", {name: a_spec(command=[name]) for name in ("a", "b", "c")})
    (tmp_path / "s" / "a").write_bytes(b"")
    torn = tmp_path / "s" / "b"
    torn.write_bytes(torn.read_bytes()[:-1])
    (tmp_path / "s" / "d.part").write_bytes(b"half")
    specs = await loaded(tmp_path / "s")
    held = [name for name in ("a", "b", "c", "d") if specs.held(name, for_start=True)]
    assert held == ["c"]
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["c"]


async def test_what_no_task_has_any_more_goes_from_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    await saved(folder, {name: a_spec() for name in ("a", "b")})
    specs = await loaded(folder)
    running = asyncio.create_task(specs.run())
    specs.let_go({"b"})
    async with asyncio.timeout(60):
        while [path.name for path in folder.iterdir()] != ["b"]:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})


async def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    specs = Specs(real_env(threads=1), str(file / "specs"))
    running = asyncio.create_task(specs.run())
    await specs.load()
    for name in ("a", "b"):
        specs.hold({name: a_spec()})
        await asyncio.sleep(0.05)
    assert not running.done()
    assert specs.held("b", for_start=True)
    running.cancel()
    await asyncio.wait({running})


async def test_many_are_asked_for_in_several_requests_each_once_answered() -> None:
    specs = Specs(real_env(threads=1))
    hashes = [f"h{number}" for number in range(MOST_AT_ONCE + 6)]
    specs.lack(hashes)
    first = await specs.to_ask()
    specs.lack(hashes)  # another list, before the answer
    second = asyncio.ensure_future(specs.to_ask())
    await asyncio.sleep(0.05)
    assert not second.done(), "one request at a time"
    specs.answered()
    async with asyncio.timeout(60):
        assert (first, await second) == (hashes[:MOST_AT_ONCE], hashes[MOST_AT_ONCE:])
    specs.begin_stream()
    specs.lack(["h1"])
    async with asyncio.timeout(60):
        assert await specs.to_ask() == ["h1"], "nobody answers what was asked on an earlier stream"


def an_agent(machine: Machine, specs: Specs) -> Agent:
    env = real_env(threads=1)
    runtimes = {"docker": FakeRuntime(env, machine=machine)}
    fencing = a_fencing(env)
    return Agent(env, runtimes, NetworkProber(), fencing, cluster="test", node="n1", specs=specs)


async def until(agent: Agent, task_id: str, state: "pb.TaskState.ValueType") -> pb.TaskStatus:
    async with asyncio.timeout(60):
        while True:
            for status in await agent.changes():
                if (status.id, status.state) == (task_id, state):
                    return status


def a_list(version: int, *ids: str) -> pb.Assignments:
    tasks = [pb.Task(id=id, spec_hash="secret", wanted=pb.WANTED_RUN) for id in ids]
    return pb.Assignments(revision=pb.Revision(version=version), tasks=tasks)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_restarted_worker_asks_only_for_what_it_starts(
    tmp_path: Path, is_there: bool
) -> None:
    machine = Machine()
    agent = an_agent(machine, Specs(real_env(threads=1), str(tmp_path / "s")))
    running = asyncio.create_task(agent.run())
    await agent.apply(a_list(1, "t1"))
    async with asyncio.timeout(60):
        assert await agent.specs.to_ask() == ["secret"]
    agent.take_specs(pb.Specs(specs={"secret": with_values()}))
    await until(agent, "t1", pb.TASK_STATE_RUNNING)
    assert machine.things["t1"].spec.secret_env == {"A": PLANTED}
    async with asyncio.timeout(60):
        while not (tmp_path / "s" / "secret").exists():
            await asyncio.sleep(0.01)
    agent.specs.begin_stream()  # the stream broke, and there is another one
    await agent.inventory()
    await agent.apply(a_list(1, "t1"))
    asking = asyncio.ensure_future(agent.specs.to_ask())
    await asyncio.sleep(0.05)
    assert not asking.done()
    asking.cancel()
    running.cancel()
    await asyncio.wait({running})

    agent = an_agent(machine, Specs(real_env(threads=1), str(tmp_path / "s")))
    running = asyncio.create_task(agent.run())
    await agent.inventory()
    if not is_there:  # it disappears between the inventory and the list
        del machine.things["t1"]
    await agent.apply(a_list(2, "t1"))
    asking = asyncio.ensure_future(agent.specs.to_ask())
    state = pb.TASK_STATE_RUNNING if is_there else pb.TASK_STATE_FAILED
    status = await until(agent, "t1", state)
    assert status.reason == ("" if is_there else NOT_AGAIN)
    assert not asking.done()
    await agent.apply(a_list(3, "t1", "t2"))
    async with asyncio.timeout(60):
        assert await asking == ["secret"], "t2 starts here"
    agent.take_specs(pb.Specs(specs={"secret": with_values()}))
    await until(agent, "t2", pb.TASK_STATE_RUNNING)
    assert machine.things["t2"].spec.secret_env == {"A": PLANTED}
    running.cancel()
    await asyncio.wait({running})


async def test_the_end_of_a_task_is_said_again_until_it_is_acknowledged() -> None:
    machine = Machine()
    agent = an_agent(machine, Specs(real_env(threads=1)))
    running = asyncio.create_task(agent.run())
    await agent.inventory()
    agent.taken(0)
    listed = a_list(1, "t1")
    listed.specs["secret"].CopyFrom(a_spec())
    await agent.apply(listed)
    await until(agent, "t1", pb.TASK_STATE_RUNNING)
    await agent.apply(pb.Assignments(revision=pb.Revision(version=2), confirmed_empty=True))
    gone = await until(agent, "t1", pb.TASK_STATE_GONE)
    agent.said(7, [gone])
    agent.taken(6)
    assert [(s.id, s.state) for s in await agent.inventory()] == [("t1", pb.TASK_STATE_GONE)]
    agent.taken(0)  # the Welcome after the Hello that has it
    assert await agent.inventory() == []
    running.cancel()
    await asyncio.wait({running})
