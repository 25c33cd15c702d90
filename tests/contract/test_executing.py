"""A command inside a running task: the same claims for the fake, for processes and for containers."""

import asyncio

import pytest

from contract.benches import Bench, DockerBench, ProcessBench
from contract.waiting import launch, output, until
from orca_worker.runtime.port import RuntimeRefusal
from orca_worker.runtime.process import table


async def test_a_command_inside_tells_its_exit_code(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.forever())
    assert await runtime.execute(task.id, bench.exits(0), seconds=60) == 0
    assert await runtime.execute(task.id, bench.exits(3), seconds=60) == 3


async def test_a_command_that_does_not_end_is_ended_and_the_next_one_runs(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.forever())
    with pytest.raises(TimeoutError):
        await runtime.execute(task.id, ["sleep", "600"], seconds=0.3)

    async def runs_again() -> bool:
        try:
            return await runtime.execute(task.id, bench.exits(0), seconds=60) == 0
        except RuntimeRefusal:  # it is being ended
            return False

    await until(runs_again)


async def test_a_command_that_is_not_there_is_refused_or_fails(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.forever())

    async def said() -> str:
        try:
            return str(await runtime.execute(task.id, bench.unknown(), seconds=60))
        except RuntimeRefusal as refusal:
            return refusal.reason

    words = await said()
    assert "no-such-command" in words or words in ("126", "127")


async def test_nothing_is_run_in_what_has_ended_or_never_was(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.forever())
    await runtime.stop(task.id, grace_seconds=5)
    for id in (task.id, "0123456789abcdef"):
        with pytest.raises(RuntimeRefusal):
            await runtime.execute(id, bench.exits(0), seconds=60)


async def test_beside_a_process_it_has_its_folder_environment_and_port(
    processes: ProcessBench,
) -> None:
    runtime = processes.runtime()
    task = await launch(
        processes, runtime, ["sh", "-c", "echo here > mark; sleep 600"], port=80, env={"KEY": "v"}
    )
    script = 'test "$KEY" = v && test -n "$PORT" && test -f mark && test ! -t 0'

    async def says_so() -> bool:
        return await runtime.execute(task.id, ["sh", "-c", script], seconds=60) == 0

    await until(says_so)


async def test_beside_a_process_nothing_is_left_when_it_is_removed(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    task = await launch(processes, runtime, processes.forever())
    script = "setsid sh -c 'echo $$ > pid; exec sleep 600' & sleep 600"
    with pytest.raises(TimeoutError):
        await runtime.execute(task.id, ["sh", "-c", script], seconds=2)
    pid = int((processes.folder / task.id / "work" / "pid").read_text())
    await runtime.remove(task.id)

    async def is_gone() -> bool:
        process = table.read(pid)
        return process is None or process.is_dead

    await until(is_gone)


async def test_inside_a_container_it_is_the_containers_user_with_its_environment(
    containers: DockerBench,
) -> None:
    runtime = containers.runtime()
    task = await launch(
        containers, runtime, containers.forever(), env={"KEY": "v"}, user="nobody", port=80
    )
    script = 'test "$KEY" = v && test "$(id -u)" = 65534 && test "$PORT" = 80'
    assert await runtime.execute(task.id, ["sh", "-c", script], seconds=60) == 0
    assert await output(runtime, task.id) == b""


async def test_many_commands_at_once_take_their_turn(bench: Bench) -> None:
    runtime = bench.runtime()
    tasks = [await launch(bench, runtime, bench.forever()) for _ in range(3)]
    codes = await asyncio.gather(
        *(runtime.execute(task.id, bench.exits(n), seconds=60) for n, task in enumerate(tasks))
    )
    assert codes == [0, 1, 2]
