"""Specs that this node holds, by hash: in memory, and on disk for a worker that starts again.

Values of secrets are in memory only. What is on disk says that it lacks them: that is enough for what was
started before, and for nothing else.
"""

import asyncio
import hashlib
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_proto import worker_pb2 as pb

MOST_AT_ONCE = 64
"""As many hashes as one request may name."""
PART = ".part"
DIGEST_BYTES = 32

log = get_logger("specs")


class Specs:
    """`folder` is made when something is written, and nobody but the worker's user can read it; None: specs
    are in memory only. A disk that fails costs a request more at the next start."""

    def __init__(self, env: Env, folder: str | None = None) -> None:
        self._env = env
        self._folder = folder
        self._held: dict[str, pb.TaskSpec] = {}
        self._lacking: dict[str, None] = {}
        self._asked: list[str] = []
        self._news = asyncio.Event()
        self._on_disk: set[str] = set()
        self._changed = asyncio.Event()

    async def load(self) -> None:
        """What an earlier worker of this node has written. Raises nothing."""
        if self._folder is not None:
            self._held = await self._env.threads.run(self._read)
            self._on_disk = set(self._held)

    async def run(self) -> None:
        """Have on disk what is held, without values of secrets."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._save()

    def held(self, hash: str, *, for_start: bool) -> pb.TaskSpec | None:
        """With all values when it is for a start; None: it has to be asked for."""
        spec = self._held.get(hash)
        return None if spec is not None and for_start and spec.lacks_values else spec

    def hold(self, specs: Mapping[str, pb.TaskSpec]) -> None:
        """Take what a master has sent."""
        self._held.update(specs)
        self._changed.set()

    def let_go(self, used: Collection[str]) -> None:
        """Of all but these."""
        self._held = {hash: spec for hash, spec in self._held.items() if hash in used}
        self._changed.set()

    def lack(self, hashes: Collection[str]) -> None:
        """These are to be asked for, and no others, but for those that were asked for already."""
        self._lacking = {hash: None for hash in hashes if hash not in self._asked}
        self._news.set()

    def begin_stream(self) -> None:
        """Whatever was asked for on another one is not answered any more."""
        self._asked = []
        self._lacking = {}

    async def to_ask(self) -> list[str]:
        """Wait for something to ask for, and for the answer to what was asked before."""
        while self._asked or not self._lacking:
            self._news.clear()
            await self._news.wait()
        self._asked = list(self._lacking)[:MOST_AT_ONCE]
        for hash in self._asked:
            del self._lacking[hash]
        return list(self._asked)

    def answered(self) -> None:
        self._asked = []
        self._news.set()

    async def _save(self) -> None:
        held = {hash: spec for hash, spec in self._held.items() if not spec.lacks}
        if self._folder is None or set(held) == self._on_disk:
            return
        new = {hash: _without_values(held[hash]) for hash in set(held) - self._on_disk}
        old = self._on_disk - set(held)
        try:
            await self._env.threads.run(partial(self._write, new, old))
        except OSError as error:
            log.warning("specs are not kept on disk", reason=str(error))
        else:
            self._on_disk = set(held)

    def _write(self, new: Mapping[str, pb.TaskSpec], old: Collection[str]) -> None:
        assert self._folder is not None
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        for hash, spec in new.items():
            path = os.path.join(self._folder, hash)
            raw = spec.SerializeToString()
            with open(
                path + PART, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)
            ) as file:
                file.write(hashlib.sha256(raw).digest() + raw)
            os.replace(path + PART, path)
        for hash in old:
            with suppress(FileNotFoundError):
                os.remove(os.path.join(self._folder, hash))

    def _read(self) -> dict[str, pb.TaskSpec]:
        assert self._folder is not None
        found = {}
        try:
            for name in os.listdir(self._folder):
                path = os.path.join(self._folder, name)
                with open(path, "rb") as file:
                    digest, raw = file.read(DIGEST_BYTES), file.read()
                if hashlib.sha256(raw).digest() == digest and not name.endswith(PART):
                    found[name] = pb.TaskSpec.FromString(raw)
                else:  # half of one: the power was lost
                    os.remove(path)
        except FileNotFoundError:
            return found
        except OSError as error:
            log.warning("specs on disk cannot be read", reason=str(error))
        return found


def _without_values(spec: pb.TaskSpec) -> pb.TaskSpec:
    if not spec.secret_env and not spec.secret_files:
        return spec
    kept = pb.TaskSpec()
    kept.CopyFrom(spec)
    kept.secret_env.clear()
    del kept.secret_files[:]
    kept.lacks_values = True
    return kept
