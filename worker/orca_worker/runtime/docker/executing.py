"""Commands inside a running container, one at a time in each.

An engine has no word for ending such a command. Where it is a process of this machine it is killed
here; elsewhere it goes on, and until it has ended no other is started in its container.

Podman (seen in 4.3) never tells the end of a command that nobody is attached to. So its output is taken,
and thrown away, to its end.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import docker

from orca_worker.runtime.docker.engine import Engine
from orca_worker.runtime.docker.errors import NotFound
from orca_worker.runtime.port import RuntimeRefusal

DRAINED_BYTES = 64 << 10
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.02, 0.5


class Executing:
    """Holds no thread while a command runs: it is started, and looked at now and then."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[str, str] = {}  # container -> what was started there and has not ended

    async def run(self, container: str, command: Sequence[str], *, seconds: float) -> int:
        """Its exit code. Raises TimeoutError, RuntimeRefusal."""
        if (before := self._running.get(container)) is not None:
            with suppress(NotFound):  # the engine forgets what has ended
                if await self._code(container, before) is None:
                    raise RuntimeRefusal("the command before it has not ended yet")
        started, output = await self._engine.call(self._start(container, list(command)))
        self._running[container] = started
        try:
            async with asyncio.timeout(seconds):
                if output is not None:
                    await _drain(output)
                return await self._ended(container, started)
        except (TimeoutError, asyncio.CancelledError):
            if self._engine.is_local:
                await asyncio.shield(self._kill(container, started))
            raise
        finally:
            if output is not None:
                _close(output)

    def _start(
        self, container: str, command: list[str]
    ) -> Callable[[docker.APIClient], tuple[str, Any]]:
        """To be called with the engine's client: what was started, and its output if that must be taken."""

        def start(client: docker.APIClient) -> tuple[str, Any]:
            attached = self._engine.is_podman and self._engine.is_local
            made = client.exec_create(container, command, stdout=attached, stderr=attached)
            output = client.exec_start(made["Id"], detach=not attached, socket=attached)
            return str(made["Id"]), output if attached else None

        return start

    def forget(self, container: str) -> None:
        """It is removed."""
        self._running.pop(container, None)

    async def _ended(self, container: str, started: str) -> int:
        pause = FIRST_LOOK_SECONDS
        while (code := await self._code(container, started)) is None:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_LOOK_SECONDS)
        return code

    async def _code(self, container: str, started: str) -> int | None:
        """None: it has not ended."""
        answer = await self._engine.call(partial(_inspect, started))
        if answer["Running"] or answer.get("ExitCode") is None:
            return None
        self._running.pop(container, None)
        return int(answer["ExitCode"])

    async def _kill(self, container: str, started: str) -> None:
        with suppress(RuntimeRefusal):
            answer = await self._engine.call(partial(_inspect, started))
            if answer["Running"] and (pid := int(answer.get("Pid") or 0)):
                await self._engine.env.threads.run(partial(_kill_inside, container, pid))


async def _drain(output: Any) -> None:
    """To its end, in no thread: what the library hands out reads from a socket, which it has inside."""
    raw: socket.socket = output._sock
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while await loop.sock_recv(raw, DRAINED_BYTES):
            pass


def _close(output: Any) -> None:
    """With the answer that it came with, which holds the connection as well."""
    connection = output._sock
    output._response.close()
    connection.close()


def _inspect(started: str, client: docker.APIClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.exec_inspect(started)
    return answer


def _kill_inside(container: str, pid: int) -> None:
    """Only what the kernel itself says to be of this container: a number may be somebody else's."""
    with suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
                if container in file.read():
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
