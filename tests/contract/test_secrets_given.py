"""What a runtime does with secrets: the program has them, and no file of ours does."""

import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

import engine
from contract.benches import Bench, DockerBench, ProcessBench
from contract.waiting import exited, launch, output
from orca_common.env import Env
from orca_proto.worker_pb2 import SecretFile
from orca_worker.runtime.docker.runtime import DockerRuntime
from orca_worker.runtime.port import Runtime, RuntimeRefusal
from orca_worker.runtime.secret_files import IN_MEMORY, YOUNG_SECONDS, SecretFiles

PLANTED = "planted-41c6a9"
FILES = [
    SecretFile(path="db/password", content=PLANTED.encode(), mode=0o444),
    SecretFile(path="raw", content=b"\0\xff", mode=0o400),
]
LOOK = (
    'echo "env $PASSWORD"; cat $ORCA_SECRETS/db/password; echo; ls -l $ORCA_SECRETS/raw;'
    " wc -c <$ORCA_SECRETS/raw; stat -f -c %T $ORCA_SECRETS"
)
GIVEN: dict[str, Any] = {"secret_env": {"PASSWORD": f"{PLANTED} of env"}, "secret_files": FILES}


async def seen(bench: Bench, runtime: Runtime, script: str = LOOK, **fields: Any) -> list[str]:
    """Lines of what a program with secrets says."""
    task = await launch(bench, runtime, ["sh", "-c", script], **(GIVEN | fields))
    await exited(runtime, task.id)
    return (await output(runtime, task.id)).decode().splitlines()


def folders(runtime: Any) -> list[str]:
    root = Path(runtime._secret_files.path("x")).parent
    return sorted(os.listdir(root)) if root.exists() else []


def holding(folder: Path) -> list[Path]:
    """Files below the folder that hold what was planted, but for the program's own output."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "output.log"]
    assert files
    return [path for path in files if PLANTED.encode() in path.read_bytes()]


def check_said(said: list[str]) -> None:
    assert said[:2] == [f"env {PLANTED} of env", PLANTED]
    assert said[2].startswith("-r--------")
    assert [line.strip() for line in said[3:]] == ["2", "tmpfs"]


async def test_a_process_has_its_secrets_and_its_folder_does_not(processes: ProcessBench) -> None:
    runtime = processes.runtime()
    check_said(await seen(processes, runtime))
    assert holding(processes.folder) == []
    forever = await launch(processes, runtime, processes.forever(), **GIVEN)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _is_there(path)]
    assert lines
    assert [line for line in lines if PLANTED.encode() in line] == []
    folder = Path(runtime._secret_files.path(forever.id))  # type: ignore[attr-defined]
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert len(folders(runtime)) == 2
    for container in await runtime.list():
        await runtime.remove(container.task)
    assert folders(runtime) == []


def _is_there(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


async def test_a_process_that_another_worker_made_is_started_once_its_secrets_are_back(
    processes: ProcessBench,
) -> None:
    task = processes.task()
    spec = processes.spec(["sh", "-c", LOOK], **GIVEN)
    await processes.runtime().create(task, spec, processes.labels(task))
    later = processes.runtime()
    with pytest.raises(RuntimeRefusal, match="not here any more"):
        await later.start(task.id)
    await later.create(task, spec, processes.labels(task))
    await later.start(task.id)
    await exited(later, task.id)
    check_said((await output(later, task.id)).decode().splitlines())


async def test_the_program_beside_a_process_keeps_no_secret(processes: ProcessBench) -> None:
    """Neither in its environment nor in its arguments nor as an open file."""
    runtime = processes.runtime()
    task = await launch(processes, runtime, processes.forever(), **GIVEN)
    state = runtime._tasks.read_state(task.id)  # type: ignore[attr-defined]
    shim = Path("/proc") / str(state.shim)
    for name in ("environ", "cmdline"):
        assert PLANTED.encode() not in (shim / name).read_bytes()
    assert os.readlink(shim / "fd" / "0") == os.devnull
    assert not [fd for fd in (shim / "fd").iterdir() if "memfd" in os.readlink(fd)]
    program = (Path("/proc") / str(state.pid) / "environ").read_bytes()
    assert f"PASSWORD={PLANTED} of env".encode() in program.split(b"\0")


@pytest.mark.engine
@pytest.mark.parametrize("fields", [{}, {"security": "restricted"}])
async def test_a_container_has_its_secrets_and_its_files_are_in_memory(
    containers: DockerBench, fields: dict[str, Any]
) -> None:
    runtime = containers.runtime()
    if not fields:
        check_said(await seen(containers, runtime))
    else:
        look = "cat /run/secrets/db/password; echo; touch /run/secrets/x 2>&1 || echo read-only"
        said = await seen(containers, runtime, look, **fields)
        assert (said[0], said[-1]) == (PLANTED, "read-only")
    client = engine.connect(containers.url)
    only_files = await launch(containers, runtime, containers.forever(), secret_files=FILES)
    other = await launch(containers, runtime, containers.forever())
    for task in (only_files, other):
        found = await runtime.inspect(task.id)
        assert found is not None
        assert PLANTED not in str(client.inspect_container(found.id))
    client.close()
    for container in await runtime.list():
        await runtime.remove(container.task)
    assert folders(runtime) == []


async def test_an_engine_elsewhere_is_given_no_files(env: Env) -> None:
    runtime = DockerRuntime(env, cluster="c", node="n", url="tcp://192.0.2.1:2375")
    bench = Bench(env)
    task = bench.task()
    with pytest.raises(RuntimeRefusal, match="local socket"):
        await runtime.create(task, bench.spec(["x"], secret_files=FILES), bench.labels(task))
    await runtime.close()


def test_folders_of_tasks_that_are_gone_are_removed_but_not_young_ones() -> None:
    files = SecretFiles("c", f"sweep-{os.getpid()}")
    now = time.time()
    kept, gone = files.put("kept", FILES), files.put("gone", FILES)
    files.sweep(["kept"], now)
    assert os.path.exists(gone)
    files.sweep(["kept"], now + 2 * YOUNG_SECONDS)
    assert (os.path.exists(kept), os.path.exists(gone)) == (True, False)
    files.drop("kept")
    os.rmdir(os.path.dirname(kept))


def test_what_is_not_in_memory_or_not_ours_is_refused(tmp_path: Path) -> None:
    on_disk = SecretFiles("c", "n", below=str(Path("/proc/self/cwd").resolve()))
    with pytest.raises(RuntimeRefusal, match=r"in memory \(tmpfs\)"):
        on_disk.put("task", FILES)
    files = SecretFiles("c", f"foreign-{os.getpid()}")
    root = os.path.dirname(files.path("task"))
    os.mkdir(root, 0o755)
    try:
        with pytest.raises(RuntimeRefusal, match="remove it"):
            files.put("task", FILES)
        os.rmdir(root)
        os.symlink(tmp_path, root)
        with pytest.raises(RuntimeRefusal, match="remove it"):
            files.put("task", FILES)
        assert list(tmp_path.iterdir()) == []
    finally:
        os.unlink(root)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "", "a//b", ".", "a/.."])
def test_a_path_cannot_lead_out_of_the_folder(path: str) -> None:
    files = SecretFiles("c", f"paths-{os.getpid()}")
    with pytest.raises(RuntimeRefusal, match="no path"):
        files.put("task", [SecretFile(path=path, content=b"x", mode=0o444)])
    root = Path(files.path("task")).parent
    assert str(root).startswith(IN_MEMORY)
    assert [entry.name for entry in root.iterdir()] == [".new-task"]
    files.sweep([], time.time() + 2 * YOUNG_SECONDS)
    root.rmdir()
