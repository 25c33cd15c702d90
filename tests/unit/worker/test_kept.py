"""What is kept of tasks that are gone: the end of it, for a day, in bounded room."""

import os
from pathlib import Path

import pytest

from fake_runtime import FakeRuntime
from orca_common.real import real_env
from orca_proto.worker_pb2 import Task, TaskSpec
from orca_worker import kept
from orca_worker.kept import MOST_BYTES, KeptOutputs
from orca_worker.runtime.port import RuntimeRefusal

ENV = real_env(threads=1)


async def printed(text: bytes, task: str = "a1") -> FakeRuntime:
    runtime = FakeRuntime(ENV)
    labels = {"orca.cluster": "test", "orca.node": "n1"}
    await runtime.create(Task(id=task), TaskSpec(image="app:1"), labels)
    await runtime.start(task)
    if text:
        runtime.write(task, text)
    return runtime


async def read(outputs: KeptOutputs, task: str, tail: int = 1_000_000) -> bytes:
    return b"".join([chunk async for chunk in outputs.read(task, tail=tail)])


async def test_it_is_read_again_by_its_last_lines_also_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    await KeptOutputs(ENV, str(folder)).keep(await printed(b"one\ntwo\nthree"), "a1")
    outputs = KeptOutputs(ENV, str(folder))
    assert await read(outputs, "a1") == b"one\ntwo\nthree"
    assert await read(outputs, "a1", tail=2) == b"two\nthree"
    assert await read(outputs, "a1", tail=0) == b""
    assert [path.name for path in folder.iterdir()] == ["a1.log"]
    assert (folder / "a1.log").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_of_much_the_last_whole_lines_are_kept(tmp_path: Path) -> None:
    outputs = KeptOutputs(ENV, str(tmp_path))
    lines = b"".join(b"%06d %s\n" % (n, b"x" * 92) for n in range(9000))
    await outputs.keep(await printed(lines), "a1")
    found = await read(outputs, "a1")
    assert MOST_BYTES - 200 < len(found) <= MOST_BYTES
    assert lines.endswith(found)
    assert len(found) % 100 == 0


@pytest.mark.parametrize("task", ["../etc", "a/b", ""])
async def test_a_name_that_is_none_of_ours_opens_no_file(tmp_path: Path, task: str) -> None:
    outputs = KeptOutputs(ENV, str(tmp_path / "outputs"))
    await outputs.keep(await printed(b"x\n", task), task)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeRefusal, match="nothing is kept of task"):
        await read(outputs, task)


async def test_what_cannot_be_kept_is_no_reason_to_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, task in ((tmp_path / "file" / "outputs", "a1"), (tmp_path, "unknown")):
        await KeptOutputs(ENV, str(folder)).keep(await printed(b"x\n"), task)
    silent = KeptOutputs(ENV, str(tmp_path / "silent"))
    await silent.keep(await printed(b""), "a1")
    assert not (tmp_path / "silent").exists()


async def test_the_old_make_room_and_so_do_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = KeptOutputs(ENV, str(tmp_path))
    for number, hours in enumerate((30, 3, 2, 1)):
        path = tmp_path / f"t{number}.log"
        path.write_bytes(b"x" * 1000)
        os.utime(path, (ENV.now() - hours * 3600,) * 2)
    monkeypatch.setattr(kept, "MOST_BYTES_OF_ALL", MOST_BYTES + 2000)
    await outputs.keep(await printed(b"new\n", "t4"), "t4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t2.log", "t3.log", "t4.log"]
