"""A machine that only remembers, and how the tests drive a solo log over it."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

from orca_common.env import Env
from orca_master.state.solo import SoloLog
from orca_master.state.solo.pace import Pace

FOLDER = "/data/log"

_number = struct.Struct(">I")


class Recorder:
    """Holds every entry it was given, in order; two entries fit in a part of its capture."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def apply(self, entry: bytes) -> bool:
        self.entries.append(entry)
        return True

    def capture(self) -> Iterator[bytes]:
        return _parts(list(self.entries))  # the view is taken now, the parts are made later

    def restoring(self) -> "Restoration":
        return Restoration(self)


class Restoration:
    def __init__(self, machine: Recorder) -> None:
        self._machine = machine
        self._parts: list[bytes] = []

    def take(self, part: bytes) -> None:
        self._parts.append(part)

    def replace(self) -> None:
        (count,) = _number.unpack(self._parts[0])
        entries = [entry for part in self._parts[1:] for entry in _split(part)]
        if len(entries) != count:
            raise ValueError(f"{len(entries)} entries of {count}")
        self._machine.entries = entries


def _parts(entries: list[bytes]) -> Iterator[bytes]:
    yield _number.pack(len(entries))
    for first in range(0, len(entries), 2):
        yield b"".join(_number.pack(len(e)) + e for e in entries[first : first + 2])


def _split(part: bytes) -> Iterator[bytes]:
    while part:
        (size,) = _number.unpack_from(part)
        yield part[4 : 4 + size]
        part = part[4 + size :]


def a_log(env: Env, folder: str = FOLDER, **options: Any) -> SoloLog:
    return SoloLog(env, folder, **{"cluster_id": "c1", "member_name": "m1"} | options)


@contextlib.asynccontextmanager
async def running(log: SoloLog, machine: Recorder) -> AsyncIterator[SoloLog]:
    """The log, started and with its `run` running; closed at the end."""
    await log.start(machine)
    work = asyncio.ensure_future(log.run())
    try:
        yield log
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await log.close()


async def recovered(env: Env, folder: str = FOLDER, **options: Any) -> list[bytes]:
    """What a start finds, without writing anything but its new term."""
    machine = Recorder()
    log = a_log(env, folder, **options)
    await log.start(machine)
    await log.close()
    return machine.entries


def a_slow_pace() -> Pace:
    """As of a disk that has taken a second for everything: its syncs go to a thread."""
    pace = Pace()
    for _ in range(100):
        pace.took(1.0)
    return pace


def numbered(count: int, *, size: int = 6) -> list[bytes]:
    return [str(n).encode().rjust(size, b".") for n in range(count)]
