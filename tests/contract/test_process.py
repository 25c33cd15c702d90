"""What only plain processes have to prove: shims, orphans, limits without an engine."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.benches import ProcessBench
from contract.waiting import exited, launch, next_end, output, until
from orca_proto.worker_pb2 import Resources
from orca_worker.runtime.port import Phase, RuntimeRefusal
from orca_worker.runtime.process.runtime import ProcessRuntime

WORKER = """
import asyncio, sys
from orca_common.real import real_env
from orca_proto.worker_pb2 import Task, TaskSpec
from orca_worker.runtime.process.runtime import ProcessRuntime

async def main(folder, cluster):
    runtime = ProcessRuntime(real_env(), folder=folder, cluster=cluster, node="n1")
    labels = {"orca.cluster": cluster, "orca.node": "n1"}
    for task, script in (("stays", "exec sleep 600"), ("ends", "sleep 1.2; exit 9")):
        spec = TaskSpec(command=["sh", "-c", script], port=80)
        await runtime.create(Task(id=task), spec, {**labels, "orca.task": task})
        await runtime.start(task)
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


def state(bench: ProcessBench, task_id: str) -> dict[str, int]:
    """What the shim wrote down."""
    found: dict[str, int] = json.loads((bench.folder / task_id / "state.json").read_text())
    return found


def alive(pid: int) -> bool:
    """Runs, and is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_killed_shim_reads_as_killed_and_leaves_no_orphan(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    task = await launch(processes, runtime, ["sh", "-c", "sleep 600 & sleep 600"])
    pids = state(processes, task.id)
    async with runtime.watch() as ended:
        os.kill(pids["shim"], signal.SIGKILL)
        await next_end(ended, task.id)
    found = await runtime.inspect(task.id)
    assert found is not None
    assert (found.phase, found.exit_code) == (Phase.EXITED, 137)
    assert found.ended_at > 0
    assert await processes.runtime().inspect(task.id) == found
    assert alive(pids["pid"])
    await runtime.remove(task.id)
    assert not alive(pids["pid"])
    assert os.listdir(processes.folder) == [".lock"]


async def test_a_killed_worker_loses_nothing(processes: ProcessBench) -> None:
    command = [sys.executable, "-c", WORKER, str(processes.folder), processes.cluster]
    worker = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, start_new_session=True
    )
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"ready\n"
    os.killpg(worker.pid, signal.SIGKILL)
    await worker.wait()
    runtime = processes.runtime()
    async with runtime.watch() as ended:
        found = {container.task: container for container in await runtime.list()}
        assert found["stays"].phase is Phase.RUNNING
        await next_end(ended, "ends")
        assert (await exited(runtime, "ends")).exit_code == 9
    again = await runtime.start("stays")
    assert again == found["stays"]
    await runtime.stop("stays", grace_seconds=5)
    assert (await exited(runtime, "stays")).exit_code == 143


@pytest.mark.parametrize("with_groups", [True, False])
async def test_no_orphan_is_left(processes: ProcessBench, with_groups: bool) -> None:
    runtime = processes.runtime()
    assert isinstance(runtime, ProcessRuntime)
    if not with_groups:
        runtime._groups.enforce = False
    # One child in the group, one that fled into a session of its own.
    script = "sleep 600 & echo $!; setsid sh -c 'echo $$; exec sleep 600' & wait"
    task = await launch(processes, runtime, ["sh", "-c", script])

    async def children() -> list[int]:
        lines = (await output(runtime, task.id)).split()
        return [int(line) for line in lines] if len(lines) == 2 else []

    pids: list[int] = await until(children)
    assert all(alive(pid) for pid in pids)
    await runtime.remove(task.id)
    assert not any(alive(pid) for pid in pids)
    assert await runtime.list() == []


@pytest.mark.parametrize("watched", [True, False])
async def test_a_removed_task_leaves_nothing_unreaped(
    processes: ProcessBench, watched: bool
) -> None:
    runtime = processes.runtime()
    async with runtime.watch() as ended:
        task = await launch(processes, runtime, ["true"])
        if watched:
            await next_end(ended, task.id)
    await exited(runtime, task.id)
    pids = state(processes, task.id)
    await runtime.remove(task.id)
    assert not {str(pids["shim"]), str(pids["pid"])} & set(os.listdir("/proc"))


async def test_two_workers_start_one_process(processes: ProcessBench) -> None:
    one, other, task = processes.runtime(), processes.runtime(), processes.task()
    command = ["sh", "-c", "echo begun; exec sleep 600"]
    await one.create(task, processes.spec(command), processes.labels(task))
    first, second = await asyncio.gather(one.start(task.id), other.start(task.id))
    assert first == second

    async def begun() -> bytes:
        return await output(one, task.id)

    assert await until(begun) == b"begun\n"


async def test_an_old_kernel_is_asked_again_and_again(
    processes: ProcessBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(pid: int) -> int:
        raise OSError(errno.ENOSYS, "no pidfd here", pid)

    monkeypatch.setattr(os, "pidfd_open", missing)
    runtime = processes.runtime()
    async with runtime.watch() as ended:
        task = await launch(processes, runtime, ["sh", "-c", "sleep 0.1; exit 6"])
        await next_end(ended, task.id)
    assert (await exited(runtime, task.id)).exit_code == 6


async def test_the_group_ends_with_its_leader(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    task = await launch(processes, runtime, ["sh", "-c", "sleep 600 & echo $!; exit 2"])
    assert (await exited(runtime, task.id)).exit_code == 2
    child = int(await output(runtime, task.id))

    async def is_gone() -> bool:
        return not alive(child)

    await until(is_gone)


async def test_only_what_was_given_is_in_the_environment(
    processes: ProcessBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS_SECRET", "hush")
    runtime = processes.runtime()
    task = await launch(processes, runtime, ["/usr/bin/env"], env={"A": "1"}, port=80)
    await exited(runtime, task.id)
    names = {line.split("=")[0] for line in (await output(runtime, task.id)).decode().splitlines()}
    assert names == {"A", "HOME", "PATH", "PORT"}


async def test_a_command_starts_in_its_own_folder(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    task = await launch(processes, runtime, ["sh", "-c", "pwd; echo $HOME; ls /proc/self/fd"])
    await exited(runtime, task.id)
    here, home, *descriptors = (await output(runtime, task.id)).decode().splitlines()
    assert here == home == str(processes.folder / task.id / "work")
    assert set(descriptors) <= {"0", "1", "2", "3"}  # 3: ls reading the folder


async def test_a_number_given_out_again_is_not_taken_for_ours(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    task = await launch(processes, runtime, ["sleep", "600"])
    pids = state(processes, task.id)
    os.kill(pids["shim"], signal.SIGKILL)
    os.kill(pids["pid"], signal.SIGKILL)
    stranger = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    try:
        # As if both numbers had been given to the stranger since.
        record = {**pids, "pid": stranger.pid, "shim": stranger.pid}
        # Numbers come round after seconds at the very least, ours began just now: so backdate it.
        record |= {"pid_start": pids["pid_start"] - 500, "shim_start": pids["shim_start"] - 500}
        (processes.folder / task.id / "state.json").write_text(json.dumps(record))
        found = await runtime.inspect(task.id)
        assert found is not None
        assert found.phase is Phase.EXITED
        await runtime.stop(task.id, grace_seconds=0.1)
        await runtime.remove(task.id)
        assert alive(stranger.pid)
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_rebooted_machine_has_nothing_running(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    task = await launch(processes, runtime, ["sleep", "600"])
    pids = state(processes, task.id)
    (processes.folder / task.id / "state.json").write_text(json.dumps({**pids, "boot": "before"}))
    found = await runtime.inspect(task.id)
    assert found is not None
    assert (found.phase, found.exit_code) == (Phase.EXITED, 137)
    os.killpg(pids["pid"], signal.SIGKILL)


async def test_a_tail_of_a_large_file_is_read_from_its_end(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    task = await launch(processes, runtime, ["true"])
    await exited(runtime, task.id)
    with (processes.folder / task.id / "output.log").open("wb") as file:
        file.truncate(8 << 30)  # sparse: reading it all would take many seconds
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(b"%06d\n" % n for n in range(50_000)))
    async with asyncio.timeout(60):
        expected = b"".join(b"%06d\n" % n for n in range(10_000, 50_000))
        chunks = [chunk async for chunk in runtime.logs(task.id, tail=40_000)]
    assert b"".join(chunks) == expected
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    assert len(chunks) > 1


async def test_too_much_memory_is_told(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    assert isinstance(runtime, ProcessRuntime)
    if not runtime.limits_enforced:
        pytest.skip("control groups are not writable here")
    eat = [sys.executable, "-c", "x = b'x' * (200 << 20)"]
    limits = Resources(memory_bytes=32 << 20)
    task = await launch(processes, runtime, eat, limits=limits)
    found = await exited(runtime, task.id)
    assert found.exit_code == 137
    assert found.oom_killed


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes someone else")
async def test_a_process_runs_as_its_user(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    task = await launch(processes, runtime, ["id", "-u"], user="65534:65534", workdir="/")
    await exited(runtime, task.id)
    assert await output(runtime, task.id) == b"65534\n"
    other = processes.task()
    spec = processes.spec(["id"], user="nobody-of-that-name")
    await runtime.create(other, spec, processes.labels(other))
    with pytest.raises(RuntimeRefusal, match="becoming user nobody-of-that-name"):
        await runtime.start(other.id)


async def test_a_command_or_a_name_that_makes_no_sense_is_refused_for_good(
    processes: ProcessBench,
) -> None:
    runtime, task = processes.runtime(), processes.task()
    with pytest.raises(RuntimeRefusal, match="needs a command") as refused:
        await runtime.create(task, processes.spec([]), {})
    assert refused.value.permanent
    task.id = "../outside"
    with pytest.raises(RuntimeRefusal, match="is not a name"):
        await runtime.create(task, processes.spec(["true"]), {})


async def test_output_is_kept_to_its_limit_and_read_from_its_first_whole_line_ce_21(
    processes: ProcessBench,
) -> None:
    runtime = processes.runtime()
    script = "seq 1 3000000; sleep 600"
    task = await launch(processes, runtime, ["sh", "-c", script], log_bytes=1 << 20, log_files=2)
    file = processes.folder / task.id / "output.log"

    async def is_trimmed() -> bool:
        written = await output(runtime, task.id, tail=1)
        return written == b"3000000\n" and file.stat().st_blocks * 512 <= 4 << 20

    await until(is_trimmed)
    assert file.stat().st_size > 20 << 20
    lines = (await output(runtime, task.id, tail=10_000_000)).splitlines()
    assert len(lines) > 100_000
    assert lines == [b"%d" % n for n in range(int(lines[0]), 3_000_001)]
    assert (await output(runtime, task.id, tail=2)) == b"2999999\n3000000\n"


async def test_a_process_ends_by_the_signal_of_its_service(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    script = "trap 'exit 3' INT; echo ready; while :; do sleep 0.1; done"
    task = await launch(processes, runtime, ["sh", "-c", script], stop_signal="SIGINT")

    async def is_ready() -> bool:
        return b"ready" in await output(runtime, task.id)

    await until(is_ready)
    await runtime.stop(task.id, grace_seconds=30)
    assert (await exited(runtime, task.id)).exit_code == 3


async def test_without_groups_each_process_is_limited(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    assert isinstance(runtime, ProcessRuntime)
    runtime._groups.enforce = False
    script = "x = bytearray(300 << 20); print(len(x))"
    command = [sys.executable, "-c", f"print('begun', flush=True); {script}"]
    limited = await launch(processes, runtime, command, limits=Resources(memory_bytes=200 << 20))
    free = await launch(processes, runtime, command)
    assert (await exited(runtime, limited.id)).exit_code == 1
    assert b"MemoryError" in await output(runtime, limited.id)
    assert (await exited(runtime, free.id)).exit_code == 0
    core = await launch(processes, runtime, ["sh", "-c", "ulimit -c"])
    await exited(runtime, core.id)
    assert await output(runtime, core.id) == b"0\n"
