"""The kernel's table of processes, read from /proc: who lives, whose child, since when.

A process is named by its number and its start time together; the number alone may be somebody
else's by now.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from orca_worker.runtime.cgroups import Usage

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table. `start` is in ticks since the machine's boot."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int
    usage: Usage

    @property
    def is_dead(self) -> bool:
        """Ended, and only not yet reaped."""
        return self.state in ("Z", "X")


def boot_id() -> str:
    """The name of this run of the kernel."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def read(pid: int) -> Process | None:
    """The process with this number, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line.rpartition(b")")[2].split()
    return Process(
        pid=pid,
        state=fields[0].decode(),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        start=int(fields[19]),
        usage=Usage(int(fields[21]) * _PAGE, (int(fields[11]) + int(fields[12])) / _TICKS),
    )


def everyone() -> Iterator[Process]:
    """All processes."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := read(int(name))) is not None:
            yield process


def lives(pid: int, start: int) -> bool:
    """Whether this very process still runs. One that ended as our child is reaped on the way."""
    process = read(pid)
    if process is None or process.start != start:
        return False
    if process.is_dead and process.parent == os.getpid():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return not process.is_dead


def session_members(leader: int, leader_start: int) -> list[Process]:
    """The living processes of the session (hence of the group) that this process once opened."""
    now = read(leader)
    if now is not None and now.start != leader_start:
        return []  # the number was given out again, so nothing is left of that session
    return [
        process
        for process in everyone()
        if process.session == leader and not process.is_dead and process.start >= leader_start
    ]


def with_environment(entry: str) -> list[int]:
    """Processes that were started with this `KEY=value`, also those that left their session."""
    found = []
    wanted = entry.encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue  # it ended, or is not ours to read
    return found


def send(pid: int, number: signal.Signals) -> None:
    """A signal to one process, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group(group: int, number: signal.Signals) -> None:
    """A signal to a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
