"""The worker's side of its guardian: the files between them, and a process that is there when it must be."""

import fcntl
import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_worker import guardian

START_SECONDS = 10.0

log = get_logger("guarding")


class ProcessGuardian:
    """See `ports.Guardian`; `folder` is the guardian's, described in `guardian.py`."""

    def __init__(self, env: Env, folder: str) -> None:
        self._env = env
        self._folder = folder

    async def add(self, task_id: str, grip: Mapping[str, Any]) -> None:
        await self._env.threads.run(partial(self._add, task_id, grip))

    async def remove(self, task_id: str) -> None:
        await self._env.threads.run(partial(self._remove, task_id))

    async def extend(self, until: float) -> None:
        await self._env.threads.run(partial(self._extend, until))

    async def is_condemned(self, task_id: str) -> bool:
        condemned = self._path("condemned", task_id)
        return await self._env.threads.run(partial(os.path.exists, condemned))

    async def tend(self) -> None:
        await self._env.threads.run(self._tend)

    def clear(self) -> None:
        """Nothing fenced is left on the node."""
        for kind in ("tasks", "condemned"):
            with suppress(FileNotFoundError):
                for id in os.listdir(self._path(kind)):
                    os.unlink(self._path(kind, id))

    def _add(self, task_id: str, grip: Mapping[str, Any]) -> None:
        for kind in ("tasks", "condemned"):
            os.makedirs(self._path(kind), mode=0o700, exist_ok=True)
        with self._door():
            self._have_guardian()
            # Once condemned it stays so: whoever looks at both finds it in one of them at any time.
            if not os.path.exists(self._path("condemned", task_id)):
                self._write(dict(grip), "tasks", task_id)

    def _remove(self, task_id: str) -> None:
        for kind in ("tasks", "condemned"):
            with suppress(FileNotFoundError):
                os.unlink(self._path(kind, task_id))

    def _extend(self, until: float) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._write({"boot": guardian.boot_id(), "until": until}, "lease.json")

    def _tend(self) -> None:
        if guardian.read_all(self._path("tasks")) or guardian.read_all(self._path("condemned")):
            guardian.enforce(self._folder)
            with self._door():
                self._have_guardian()

    def _have_guardian(self) -> None:
        fd = os.open(self._path("lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(fd)
        if (word := self._spawn()) not in ("watching", "busy"):
            raise OSError(f"the guardian does not start ({word or 'it says nothing'})")
        log.info("guardian started", folder=self._folder)

    def _spawn(self) -> str:
        read_end, write_end = os.pipe()
        errors = os.path.join(self._folder, "guardian.log")
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", guardian.__file__, self._folder],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, write_end, 1),
                    (os.POSIX_SPAWN_OPEN, 2, errors, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGCHLD],
            )
            os.close(write_end)
            write_end = -1
            poll = select.poll()
            poll.register(read_end, select.POLLIN)
            line = os.read(read_end, 64) if poll.poll(START_SECONDS * 1000) else b""
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)
        if not line:  # one that said nothing must not begin later
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return line.decode(errors="replace").strip()

    @contextmanager
    def _door(self) -> Iterator[None]:
        fd = os.open(self._path("door"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _write(self, value: Mapping[str, Any], *names: str) -> None:
        """Whole or not at all."""
        path = self._path(*names)
        draft = self._path("draft-" + names[-1])
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(value, file)
        os.rename(draft, path)

    def _path(self, *names: str) -> str:
        return os.path.join(self._folder, *names)
