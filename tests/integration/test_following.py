"""Following real output: processes, containers, several masters; and what is left when the client goes."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from integration.conftest import RealCluster
from orca.client import Client
from orca.errors import Refused

ORCA = str(Path(sys.executable).parent / "orca")
TICKS = "n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.2; done"


def ticker(**fields: Any) -> dict[str, Any]:
    return {"name": "tick", "command": ["sh", "-c", TICKS]} | fields


def open_outputs(cluster: RealCluster) -> int:
    """How many readers of plain processes' output the worker has."""
    worker = psutil.Process(cluster.processes["worker-1"].pid)
    return sum(file.path.endswith("/output.log") for file in worker.open_files())


def sockets(cluster: RealCluster) -> int:
    """How many sockets the worker has: one is its stream, the others go to its engine."""
    folder = f"/proc/{cluster.processes['worker-1'].pid}/fd"
    found = 0
    for name in os.listdir(folder):
        try:
            found += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


async def read_until(client: Client, enough: Callable[[list[bytes]], bool], **asked: Any) -> Any:
    """Follow `tick` until its lines are enough, then go away; the lines."""
    read = b""
    async with asyncio.timeout(30), aclosing(client.logs("tick", follow=True, **asked)) as chunks:
        async for chunk in chunks:
            read += chunk
            if enough(lines := read.splitlines()):
                return lines
    raise AssertionError(f"the stream ended after {read!r}")


async def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_process_is_followed_and_its_reader_ends_with_the_client(
    process_cluster: RealCluster,
) -> None:
    async with process_cluster.client() as client:
        await client.deploy([ticker()])
        lines = await read_until(client, lambda lines: len(lines) > 5, tail=1)
        numbers = [int(line.split()[1]) for line in lines]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        await eventually(lambda: open_outputs(process_cluster) == 0)


@pytest.mark.engine
async def test_containers_are_followed_and_their_readers_end_with_the_client(
    engine_cluster: RealCluster, engine_image: str
) -> None:
    async with engine_cluster.client() as client:
        await client.deploy([ticker(image=engine_image, replicas=6)])
        before = sockets(engine_cluster)

        def of_all(lines: list[bytes]) -> bool:
            found = {line.split(b" | ")[0] for line in lines if b"tick 1" in line}
            return len(found) == 6 and sockets(engine_cluster) >= before + 6

        lines = await read_until(client, of_all)
        assert all(line.startswith(b"tick/") for line in lines)
        await eventually(lambda: sockets(engine_cluster) <= before + 4)


async def read_previous(client: Client, **asked: Any) -> str:
    """Once there is something."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Refused):
                chunks = [chunk async for chunk in client.logs("tick", previous=True, **asked)]
                return b"".join(chunks).decode()
            await asyncio.sleep(0.1)


async def test_what_a_process_said_is_there_after_it_and_after_its_worker(
    process_cluster: RealCluster,
) -> None:
    cluster = process_cluster
    async with cluster.client() as client:
        await client.deploy([ticker()])
        await client.deploy([ticker(env={"A": "1"})])
        said = await read_previous(client)
        assert re.match(r"\.\.\. replica 1, task \w{16}: .*; was stopped\ntick 1\n", said)
        task = said.split()[4].rstrip(":")
        await cluster.kill("worker-1")
        await cluster.up()
        assert (await read_previous(client, replica=task)) == said


@pytest.mark.engine
async def test_what_a_container_said_is_there_after_it(
    engine_cluster: RealCluster, engine_image: str
) -> None:
    async with engine_cluster.client() as client:
        await client.deploy([ticker(image=engine_image)])
        await client.deploy([ticker(image=engine_image, env={"A": "1"})])
        said = await read_previous(client)
        assert re.match(r"\.\.\. replica 1, task .*: revision 1, .*; was stopped\ntick 1\n", said)
        done = await asyncio.create_subprocess_exec(
            *(ORCA, "logs", "tick", "--previous", "--tail", "1"),
            env=os.environ | {"ORCA_DATA_DIR": str(engine_cluster.folder)},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await done.communicate()
        assert (done.returncode, len(out.splitlines())) == (0, 2)


@pytest.mark.engine
async def test_a_container_is_followed_across_its_restart_and_since_is_kept(
    engine_cluster: RealCluster, engine_image: str
) -> None:
    script = "echo born; sleep 1; echo dying; exit 1"
    service = ticker(image=engine_image) | {"command": ["sh", "-c", script]}
    async with engine_cluster.client() as client:
        await client.deploy([service], wait=False)
        lines = await read_until(client, lambda lines: lines.count(b"dying") == 2)
        assert lines == [b"born", b"dying", b"born", b"dying"]
        now = datetime.now(UTC).isoformat()
        later = [chunk async for chunk in client.logs("tick", since=now)]
        assert b"".join(later) in (b"", b"born\n", b"born\ndying\n")


async def test_a_removed_service_ends_the_stream_and_the_reader(
    process_cluster: RealCluster,
) -> None:
    async with process_cluster.client() as client:
        await client.deploy([ticker()])
        read = b""
        async with asyncio.timeout(30):
            async for chunk in client.logs("tick", follow=True):
                if not read:
                    await client.stop("tick", purge=True)
                read += chunk
        assert read.endswith(b"... service tick was removed\n")
        assert open_outputs(process_cluster) == 0


async def test_every_master_passes_the_stream_on(three_masters: RealCluster) -> None:
    cluster = three_masters
    async with cluster.client() as client:
        await client.deploy([ticker()])
    for api in cluster.apis:
        async with cluster.client(api) as client:
            lines = await read_until(client, lambda lines: len(lines) > 3, tail=1)
            assert all(line.startswith(b"tick ") for line in lines)
        await eventually(lambda: open_outputs(cluster) == 0)


async def test_the_command_line_follows_on_when_its_master_is_killed(
    three_masters: RealCluster,
) -> None:
    cluster = three_masters
    async with cluster.client() as client:
        await client.deploy([ticker()])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ORCA_")}
    process = await asyncio.create_subprocess_exec(
        *(ORCA, "logs", "-f", "tick"),
        env=kept | {"ORCA_DATA_DIR": str(cluster.folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(90):
        first = await process.stdout.readline()
        await cluster.kill(await cluster.leader())
        start = int(first.split()[1])
        seen = {start}
        while max(seen) < start + 40:
            line = (await process.stdout.readline()).split()
            if line[0] == b"tick":
                seen.add(int(line[1]))
        assert seen == set(range(start, max(seen) + 1)), "nothing is missing, whatever came twice"
        async with cluster.client() as client:
            await client.stop("tick", purge=True)
        await process.stdout.read()
        assert await process.wait() == 0
