"""What every runtime promises: the same claims for the fake, for processes and for containers."""

import asyncio
import os
import re
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

import engine
from contract.benches import Bench
from contract.waiting import exited, launch, listens, next_end, output, until
from orca_proto.worker_pb2 import Resources
from orca_worker.runtime.port import Phase, RuntimeRefusal


async def test_a_task_lives_from_create_to_remove(bench: Bench) -> None:
    runtime, task = bench.runtime(), bench.task()
    spec = bench.spec(bench.forever())
    await runtime.prepare(spec)

    created = await runtime.create(task, spec, bench.labels(task))
    assert (created.task, created.phase) == (task.id, Phase.CREATED)
    assert created.started_at == created.ended_at == 0.0

    before = time.time()
    started = await runtime.start(task.id)
    assert started.phase is Phase.RUNNING
    assert started.id == created.id
    assert before - 1 <= started.started_at <= time.time() + 1
    assert await runtime.inspect(task.id) == started
    assert await runtime.list() == [started]
    assert dict(started.labels) == bench.labels(task)

    await runtime.stop(task.id, grace_seconds=5)
    stopped = await runtime.inspect(task.id)
    assert stopped is not None
    assert stopped.phase is Phase.EXITED
    assert stopped.exit_code == 143
    assert stopped.ended_at >= stopped.started_at == started.started_at
    assert await runtime.list() == [stopped]

    await runtime.remove(task.id)
    assert await runtime.inspect(task.id) is None
    assert await runtime.list() == []


async def test_every_verb_may_be_repeated(bench: Bench) -> None:
    runtime, task = bench.runtime(), bench.task()
    spec = bench.spec(bench.forever(), port=8080)
    first = await runtime.create(task, spec, bench.labels(task))
    assert await runtime.create(task, spec, bench.labels(task)) == first

    started = await runtime.start(task.id)
    assert await runtime.start(task.id) == started
    assert await runtime.create(task, spec, bench.labels(task)) == started
    assert len(await runtime.list()) == 1

    for _ in range(2):
        await runtime.stop(task.id, grace_seconds=5)
    for _ in range(2):
        await runtime.remove(task.id)


async def test_creating_and_starting_at_once_from_two_sides_makes_one(bench: Bench) -> None:
    runtimes, task = [bench.runtime() for _ in range(3)], bench.task()
    runtime, spec, labels = runtimes[0], bench.spec(bench.forever()), bench.labels(task)
    made = await asyncio.gather(*(one.create(task, spec, labels) for one in runtimes + runtimes))
    assert len({container.id for container in made}) == 1
    started = await asyncio.gather(*(one.start(task.id) for one in runtimes + runtimes))
    assert {container.phase for container in started} == {Phase.RUNNING}
    assert len(await runtime.list()) == 1


async def test_what_is_unknown_is_nothing_to_stop_and_no_one_to_start(bench: Bench) -> None:
    runtime = bench.runtime()
    await runtime.stop("0123456789abcdef", grace_seconds=1)
    await runtime.remove("0123456789abcdef")
    assert await runtime.inspect("0123456789abcdef") is None
    with pytest.raises(RuntimeRefusal):
        await runtime.start("0123456789abcdef")
    with pytest.raises(RuntimeRefusal):
        await output(runtime, "0123456789abcdef")


async def test_a_running_task_can_be_removed(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.ignores_term())
    await runtime.remove(task.id)
    assert await runtime.list() == []


async def test_an_ended_task_is_not_run_again(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.exits(3))
    ended = await exited(runtime, task.id)
    assert await runtime.start(task.id) == ended
    assert await bench.runtime().start(task.id) == ended


@pytest.mark.parametrize("code", [0, 3])
async def test_an_exit_is_told_by_the_watch(bench: Bench, code: int) -> None:
    runtime = bench.runtime()
    async with runtime.watch() as ended:
        task = await launch(bench, runtime, bench.exits(code, after=0.3))
        await next_end(ended, task.id)
        found = await exited(runtime, task.id)
    assert found.exit_code == code
    assert found.ended_at <= time.time()


async def test_an_exit_before_start_returns_is_told_too(bench: Bench) -> None:
    runtime = bench.runtime()
    async with runtime.watch() as ended:
        for _ in range(3):
            task = await launch(bench, runtime, bench.prints("x"))
            await next_end(ended, task.id)


async def test_a_watch_entered_later_tells_of_what_ran_before(bench: Bench) -> None:
    task = await launch(bench, bench.runtime(), bench.exits(7, after=bench.soon_seconds))
    after_restart = bench.runtime()
    async with after_restart.watch() as ended:
        await next_end(ended, task.id)
    found = await exited(after_restart, task.id)
    assert found.exit_code == 7
    assert found.ended_at <= time.time()


async def test_a_watch_ends_at_once_and_lets_errors_through_unwrapped(bench: Bench) -> None:
    runtime = bench.runtime()
    with pytest.raises(ZeroDivisionError):
        async with runtime.watch():
            raise ZeroDivisionError

    async def read() -> None:
        async with asyncio.timeout(0.2), runtime.watch() as ended:
            await anext(ended)

    with pytest.raises(TimeoutError):
        await read()


async def test_environment_and_port_arrive(bench: Bench) -> None:
    runtime = bench.runtime()
    fields: dict[str, Any] = {"env": {"COLOUR": "blue green", "EMPTY": ""}, "port": 8080}
    task = await launch(bench, runtime, bench.prints_env(), **fields)
    await exited(runtime, task.id)
    lines = (await output(runtime, task.id)).decode().splitlines()
    assert "COLOUR=blue green" in lines
    assert "EMPTY=" in lines
    ports = [line for line in lines if line.startswith("PORT=")]
    assert len(ports) == 1
    assert int(ports[0].removeprefix("PORT=")) > 0


async def test_two_tasks_get_two_ports(bench: Bench) -> None:
    runtime = bench.runtime()
    tasks = [await launch(bench, runtime, bench.forever(), port=8080) for _ in range(2)]
    found = [await runtime.inspect(task.id) for task in tasks]
    ports = {container.host_port for container in found if container is not None}
    assert len(ports) == 2
    assert 0 not in ports
    assert {container.host_port for container in await runtime.list()} == ports


async def test_a_taken_port_is_refused_in_words(bench: Bench) -> None:
    runtime, port = bench.runtime(), engine.free_port()
    first, second = bench.task(), bench.task()
    # Something that listens, where the runtime itself does not.
    serve = ["sh", "-c", f"exec busybox httpd -f -p {port}"]
    command = serve if bench.kind == "process" else bench.forever()
    spec = bench.spec(command, port=port, host_port=port)
    await runtime.create(first, spec, bench.labels(first))
    assert (await runtime.start(first.id)).host_port == port
    await runtime.create(second, spec, bench.labels(second))

    if bench.kind == "process":
        await until(lambda: listens(port))
    with pytest.raises(RuntimeRefusal, match=r"in use|allocated") as refused:
        await runtime.start(second.id)
    assert not refused.value.permanent
    await runtime.remove(first.id)
    assert (await runtime.start(second.id)).phase is Phase.RUNNING


async def test_an_unknown_command_is_named(bench: Bench) -> None:
    runtime, task = bench.runtime(), bench.task()
    await runtime.create(task, bench.spec(bench.unknown()), bench.labels(task))
    if bench.has_init:
        # What starts is the engine's init, and it is the init that does not find the command.
        await runtime.start(task.id)
        assert (await exited(runtime, task.id)).exit_code == 127
        assert b"no-such-command" in await output(runtime, task.id)
        return
    with pytest.raises(RuntimeRefusal) as refused:
        await runtime.start(task.id)
    assert refused.value.permanent
    assert re.search("no-such-command.*not found|not found: no-such", refused.value.reason)
    found = await runtime.inspect(task.id)
    assert found is not None
    assert found.phase is Phase.CREATED


async def test_logs_give_the_last_lines(bench: Bench) -> None:
    runtime = bench.runtime()
    text = "".join(f"line {n}\n" for n in range(200)) + bench.last_line("and no newline")
    task = await launch(bench, runtime, bench.prints(text))
    await exited(runtime, task.id)
    lines = text.encode().splitlines(keepends=True)
    assert await output(runtime, task.id) == text.encode()
    assert await output(runtime, task.id, tail=3) == b"".join(lines[-3:])
    assert await output(runtime, task.id, tail=201) == text.encode()
    assert await output(runtime, task.id, tail=0) == b""


async def test_who_follows_gets_what_is_written_later_until_the_task_ends(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.tells("one", "two", "three", between=0.4))
    async with aclosing(runtime.logs(task.id, tail=10, follow=True)) as chunks:
        async with asyncio.timeout(20):
            read = b""
            while read != b"one\ntwo\nthree\n":
                read += await anext(chunks)
        await runtime.stop(task.id, grace_seconds=0.2)
        async with asyncio.timeout(20):
            assert [chunk async for chunk in chunks] == []


async def test_who_follows_from_the_start_of_a_task_misses_nothing(bench: Bench) -> None:
    runtime, task = bench.runtime(), bench.task()
    spec = bench.spec(
        bench.prints("".join(f"line {n}\n" for n in range(500)) + bench.last_line("and an end"))
    )
    await runtime.create(task, spec, bench.labels(task))
    await runtime.start(task.id)
    async with asyncio.timeout(20):
        chunks = [chunk async for chunk in runtime.logs(task.id, tail=1000, follow=True)]
    expected = b"".join(b"line %d\n" % n for n in range(500)) + b"and an end"
    assert bench.comparable(b"".join(chunks)) == bench.comparable(expected)


async def test_a_follower_that_goes_away_leaves_nothing_behind(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.tells("one"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with aclosing(runtime.logs(task.id, tail=10, follow=True)) as chunks:
            async with asyncio.timeout(20):
                assert await anext(chunks) == b"one\n"
    left = len(os.listdir("/proc/self/fd"))
    assert left <= before + 2, "idle connections to an engine are kept, one for each thread"


async def test_since_leaves_out_what_is_older_and_nothing_else(bench: Bench) -> None:
    runtime = bench.runtime()
    async with runtime.watch():
        task = await launch(bench, runtime, bench.tells("old", "new", between=2.5))

        async def has(line: bytes) -> bool:
            return line in await output(runtime, task.id)

        await until(lambda: has(b"old"), 20)
        await asyncio.sleep(1.2)  # what was written within a second may not be told apart
        then = time.time()
        assert await output(runtime, task.id, since=then) == b""
        await until(lambda: has(b"new"), 20)
        assert await output(runtime, task.id, since=then) == b"new\n"
        assert await output(runtime, task.id, since=then - 60) == b"old\nnew\n"


async def test_logs_of_what_did_not_start_are_empty(bench: Bench) -> None:
    runtime, task = bench.runtime(), bench.task()
    await runtime.create(task, bench.spec(bench.forever()), bench.labels(task))
    assert await output(runtime, task.id) == b""


async def test_nodes_and_clusters_do_not_see_each_other(bench: Bench) -> None:
    one, other = bench.runtime("n1"), bench.runtime("n2")
    abroad = bench.runtime("n1", f"{bench.cluster}-2")
    mine = await launch(bench, one, bench.forever(), node="n1")
    async with other.watch() as ended_there:
        yours = await launch(bench, other, bench.forever(), node="n2")
        assert [container.task for container in await one.list()] == [mine.id]
        assert [container.task for container in await other.list()] == [yours.id]
        assert await abroad.list() == []
        await one.stop(mine.id, grace_seconds=5)
        await other.stop(yours.id, grace_seconds=5)
        async with asyncio.timeout(60):
            assert await anext(ended_there) == yours.id


async def test_a_restarted_worker_finds_everything_again(bench: Bench) -> None:
    before = bench.runtime()
    runs = await launch(bench, before, bench.forever(), port=8080)
    ends = await launch(bench, before, bench.exits(5, after=0.2))
    waits = bench.task()
    await before.create(waits, bench.spec(bench.forever()), bench.labels(waits))
    known = await before.inspect(runs.id)
    await before.close()

    after = bench.runtime()
    await exited(after, ends.id)
    found = {container.task: container for container in await after.list()}
    assert found.keys() == {runs.id, ends.id, waits.id}
    assert found[runs.id] == known
    assert (found[ends.id].phase, found[ends.id].exit_code) == (Phase.EXITED, 5)
    assert found[waits.id].phase is Phase.CREATED
    assert (await after.start(waits.id)).phase is Phase.RUNNING
    await after.stop(runs.id, grace_seconds=5)
    stopped = await after.inspect(runs.id)
    assert stopped is not None
    assert stopped.phase is Phase.EXITED


async def test_who_ignores_the_signal_is_killed_after_the_grace(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.ignores_term())

    async def is_ready() -> bool:
        return bench.kind == "fake" or await output(runtime, task.id) == b"ready\n"

    await until(is_ready)
    began = time.monotonic()
    await runtime.stop(task.id, grace_seconds=0.6)
    assert time.monotonic() - began >= 0.6
    found = await runtime.inspect(task.id)
    assert found is not None
    assert (found.phase, found.exit_code) == (Phase.EXITED, 137)


async def test_limits_hold(bench: Bench) -> None:
    runtime = bench.runtime()
    limits = Resources(memory_bytes=64 << 20, cpu_millis=500)
    task = await launch(bench, runtime, bench.forever(), limits=limits)
    found = await runtime.inspect(task.id)
    assert found is not None
    assert await bench.limits(found) == (64 << 20, 500)
    assert (await runtime.used()).memory_bytes > 0


async def test_eight_start_at_once(bench: Bench) -> None:
    runtime = bench.runtime()
    tasks = await asyncio.gather(
        *(launch(bench, runtime, bench.forever(), port=8080) for _ in range(8))
    )
    found = await runtime.list()
    assert {container.task for container in found} == {task.id for task in tasks}
    assert {container.phase for container in found} == {Phase.RUNNING}
    assert len({container.host_port for container in found}) == 8
    await asyncio.gather(*(runtime.remove(task.id) for task in tasks))
    assert await runtime.list() == []


async def test_the_same_task_again_after_its_removal_starts_anew(bench: Bench) -> None:
    runtime = bench.runtime()
    task = await launch(bench, runtime, bench.exits(4))
    first = await exited(runtime, task.id)
    await runtime.remove(task.id)
    spec = bench.spec(bench.forever())
    second = await runtime.create(task, spec, bench.labels(task))
    assert second == replace(
        first,
        id=second.id,
        phase=Phase.CREATED,
        exit_code=0,
        started_at=0.0,
        ended_at=0.0,
        image="",
    )
    assert (await runtime.start(task.id)).phase is Phase.RUNNING
