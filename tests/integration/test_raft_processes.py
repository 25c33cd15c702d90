"""Three masters as three processes, with TLS and disks, killed at random under load."""

import asyncio
import contextlib
import json
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raft_tls import CLUSTER, an_authority, master_files

PROGRAM = Path(__file__).with_name("raft_node.py")
NAMES = ("m1", "m2", "m3")
CHAOS_SECONDS = 18.0
ANSWER_SECONDS = 3.0
CALLERS = 6


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for taken in sockets:
        taken.bind(("127.0.0.1", 0))
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


class Processes:
    def __init__(self, folder: Path) -> None:
        ports = free_ports(6)
        signer = an_authority()
        self.addresses = {name: f"127.0.0.1:{ports[n]}" for n, name in enumerate(NAMES)}
        self.ports = dict(zip(NAMES, ports[3:], strict=True))
        self._configurations: dict[str, dict[str, Any]] = {
            name: {
                "name": name,
                "cluster": CLUSTER,
                "address": self.addresses[name],
                "found": name == "m1",
                "peers": {n: a for n, a in self.addresses.items() if n != name},
                "tls": master_files(signer, name, folder),
                "folder": str(folder / name),
                "port": self.ports[name],
            }
            for name in NAMES
        }
        self.running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        self.running[name] = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            json.dumps(self._configurations[name]),
            stdout=asyncio.subprocess.PIPE,
        )

    async def add(self, name: str) -> None:
        """Start one that joins, and make it a voter."""
        await self.start(name)
        await self.ask_any(f"learner {name} {self.addresses[name]}")
        await self.ask_any(f"promote {name}")

    async def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        process = self.running.pop(name)
        process.send_signal(how)
        return await process.wait()

    async def ask(self, name: str, line: str) -> str:
        """One question on a connection of its own; OSError or TimeoutError if nobody answers."""
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.ports[name], limit=64 << 20
            )
            try:
                writer.write(f"{line}\n".encode())
                answer = await reader.readline()
            finally:
                writer.close()
        if not answer:
            raise ConnectionError("it died before it answered")
        return answer.decode().strip()

    async def ask_any(self, line: str, *, seconds: float = 60.0) -> tuple[str, str]:
        """(who answered ok, the answer), asked in turn until somebody leads."""
        async with asyncio.timeout(seconds):
            while True:
                for name in NAMES:
                    with contextlib.suppress(OSError, TimeoutError):
                        answer = await self.ask(name, line)
                        if answer.startswith("ok"):
                            return name, answer[3:]
                await asyncio.sleep(0.01)


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    """One is founded, the others join it."""
    cluster = Processes(tmp_path)
    await cluster.start("m1")
    await cluster.ask_any("add founded")
    for name in NAMES[1:]:
        await cluster.add(name)
    yield cluster
    for name in list(cluster.running):
        await cluster.stop(name)


async def _load(
    cluster: Processes, caller: int, acknowledged: list[str], stop: asyncio.Event
) -> None:
    number, name = 0, NAMES[caller % 3]
    while not stop.is_set():
        number += 1
        token = f"{caller}-{number}"
        try:
            answer = await cluster.ask(name, f"add {token}")
        except (OSError, TimeoutError):
            answer = "unknown"
        if answer == "ok":
            acknowledged.append(token)
        else:
            name = random.choice(NAMES)
            await asyncio.sleep(0.01)


@pytest.mark.timeout(180)
async def test_nothing_acknowledged_is_lost_when_masters_are_killed(
    processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    await processes.ask_any("add first")
    acknowledged: list[str] = ["first"]
    kills, stop = 0, asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for caller in range(CALLERS):
            group.create_task(_load(processes, caller, acknowledged, stop))
        until = time.monotonic() + CHAOS_SECONDS
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(0.5, 2.0))
            victims = NAMES if random.random() < 0.2 else [random.choice(NAMES)]
            for name in victims:
                await processes.stop(name)
            kills += len(victims)
            await asyncio.sleep(random.uniform(0.0, 0.7))
            for name in victims:
                await processes.start(name)
        stop.set()
    _, found = await processes.ask_any("all")
    lost = set(acknowledged) - set(found.split())
    assert not lost, f"{len(lost)} of {len(acknowledged)} lost, {kills} kills"
    assert len(acknowledged) > 200
    with capsys.disabled():
        print(f"\n{kills} kills, {len(acknowledged)} acknowledged, 0 lost")


@pytest.mark.timeout(120)
async def test_after_a_kill_of_the_leader_writes_go_on(
    processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    leader, _ = await processes.ask_any("add one")
    await asyncio.sleep(0.5)
    await processes.stop(leader)
    started = time.monotonic()
    await processes.ask_any("add two")
    killed = time.monotonic() - started
    await processes.start(leader)
    await asyncio.sleep(1.5)
    leader, _ = await processes.ask_any("add three")
    started = time.monotonic()
    process = processes.running[leader]
    process.send_signal(signal.SIGTERM)
    await processes.ask_any("add four")
    handed_over = time.monotonic() - started
    assert await process.wait() == 0
    del processes.running[leader]
    with capsys.disabled():
        print(
            f"\nnext write {killed:.2f} s after a kill, {handed_over:.2f} s after an orderly stop"
        )


@pytest.mark.timeout(120)
async def test_members_join_over_the_network_and_a_removed_one_ends_by_itself(
    processes: Processes,
) -> None:
    """The fixture has founded one and let two join and be promoted."""
    _, members = await processes.ask_any("members")
    assert sorted(members.split()) == ["m1:1", "m2:1", "m3:1"]
    leader, _ = await processes.ask_any("add before")
    await processes.stop(leader)
    second, _ = await processes.ask_any("add after")
    assert second != leader
    await processes.start(leader)
    await processes.ask_any(f"remove {leader}")
    ended = processes.running.pop(leader)
    async with asyncio.timeout(60):
        out, _ = await ended.communicate()
    assert ended.returncode == 3
    assert "was removed from the cluster by" in out.decode()
    await processes.ask_any(f"remove {second}")  # it leads, or did a moment ago
    ended = processes.running.pop(second)
    async with asyncio.timeout(60):
        await ended.communicate()
    assert ended.returncode == 3
    (last,) = processes.running
    await processes.ask_any("add alone")
    who, found = await processes.ask_any("all")
    assert who == last
    assert {"founded", "before", "after", "alone"} <= set(found.split())
