"""What is on disk for each plain process and what it means: the runtime's only truth.

`<root>/<task id>/` holds `task.json` (what to run, written here once), `state.json` (what became of
it, written by the shim), `lock` (held while the shim lives), `output.log` and `work/`. Names that
begin with a dot are folders on their way in or out. All calls block and are meant for a thread.
"""

import contextlib
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from orca_worker.runtime.port import Container, Phase, RuntimeRefusal
from orca_worker.runtime.process import table

# Below the range from which the kernel gives out ports for outgoing connections.
LOWEST_PORT, HIGHEST_PORT = 20_000, 32_000
KILLED_EXIT_CODE = 137

T = TypeVar("T", bound=msgspec.Struct)


class Record(msgspec.Struct, frozen=True):
    """`task.json`. `port` is the task's port on this node (0: none). Of the output, the last
    `output_bytes` are kept (0: all). `limits`: "data" bytes of memory for each process. `secret_env`: names
    of variables whose values are in no file; the shim is given them at the start."""

    task: str
    labels: dict[str, str]
    command: list[str]
    env: dict[str, str]
    port: int
    fixed_port: bool
    user: str
    workdir: str
    memory_bytes: int
    cpu_millis: int
    cgroups: list[str]
    stop_signal: str = ""
    output_bytes: int = 0
    limits: dict[str, int] = {}
    secret_env: list[str] = []


class State(msgspec.Struct, frozen=True):
    """`state.json`. No exit code: the command runs, or its shim was killed."""

    boot: str
    shim: int
    shim_start: int
    pid: int
    pid_start: int
    started_at: float
    exit_code: int | None = None
    ended_at: float = 0.0
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """A task's folder as it is now."""

    record: Record
    state: State | None
    container: Container


class Tasks:
    """The folder with all tasks. Several runtimes may share it."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        os.makedirs(self.root, mode=0o711, exist_ok=True)

    def path(self, task_id: str, *names: str) -> str:
        """A path in the task's folder."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", task_id):
            raise RuntimeRefusal(f"task id {task_id!r} is not a name", permanent=True)
        return os.path.join(self.root, task_id, *names)

    def create(self, record: Record, *, port_hint: int) -> None:
        """Make the task's folder, whole or not at all; one that is there already stays.

        A record without a fixed port that asks for one (port -1) gets one that no other task has.
        """
        with self._locked():
            if self.read_record(record.task) is not None:
                return
            if record.port < 0:
                port = self._free_port(port_hint)
                env = {**record.env, "PORT": str(port)}
                record = msgspec.structs.replace(record, port=port, env=env)
            draft = os.path.join(self.root, f".new-{record.task}")
            shutil.rmtree(draft, ignore_errors=True)
            os.makedirs(os.path.join(draft, "work"), mode=0o711)
            _write(os.path.join(draft, "task.json"), record)
            with contextlib.suppress(FileNotFoundError):
                self.discard(record.task)  # a folder without a record is what a crash left
            os.rename(draft, self.path(record.task))

    def write_record(self, record: Record) -> None:
        """Replace `task.json`."""
        path = self.path(record.task, "task.json")
        with self._locked():
            _write(path + ".new", record)
            os.rename(path + ".new", path)

    def read_record(self, task_id: str) -> Record | None:
        """What the task is, or None."""
        return _read(self.path(task_id, "task.json"), Record)

    def read_state(self, task_id: str) -> State | None:
        """What the shim wrote down last."""
        return _read(self.path(task_id, "state.json"), State)

    def observe(self, task_id: str, now: float) -> Observed | None:
        """The task as it is. A shim that died without a word is written down as killed `now`."""
        record = self.read_record(task_id)
        if record is None:
            return None
        state = self.read_state(task_id)
        if state is not None and state.exit_code is None and not shim_lives(state):
            # It may have written the end just before it ended.
            state = self.read_state(task_id)
            if state is not None and state.exit_code is None:
                state = msgspec.structs.replace(state, exit_code=KILLED_EXIT_CODE, ended_at=now)
                with contextlib.suppress(FileNotFoundError):
                    _write(self.path(task_id, "state.lost"), state)
                    os.rename(self.path(task_id, "state.lost"), self.path(task_id, "state.json"))
        return Observed(record, state, _container(record, state, self.path(task_id)))

    def ids(self) -> list[str]:
        """Every task's id, of whichever cluster and node."""
        return [name for name in os.listdir(self.root) if not name.startswith(".")]

    @contextmanager
    def shim_kept_out(self, task_id: str) -> Iterator[bool]:
        """Hold the shim's lock, so that none can start meanwhile. False: one lives."""
        try:
            fd = os.open(self.path(task_id, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            yield True
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        try:
            yield held
        finally:
            os.close(fd)

    def discard(self, task_id: str) -> None:
        """Remove the folder: in one step from sight, then from disk."""
        away = os.path.join(self.root, f".gone-{task_id}")
        shutil.rmtree(away, ignore_errors=True)
        os.rename(self.path(task_id), away)
        shutil.rmtree(away, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(os.path.join(self.root, ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _free_port(self, hint: int) -> int:
        taken = {record.port for record in map(self.read_record, self.ids()) if record is not None}
        span = HIGHEST_PORT - LOWEST_PORT
        for step in range(span):
            port = LOWEST_PORT + (hint + step) % span
            if port not in taken and port_is_free(port):
                return port
        raise RuntimeRefusal(f"no port between {LOWEST_PORT} and {HIGHEST_PORT} is free")


def shim_lives(state: State) -> bool:
    """Whether the shim that wrote this state still runs."""
    return state.boot == table.boot_id() and table.lives(state.shim, state.shim_start)


def port_is_free(port: int) -> bool:
    """Whether a program could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that are just being forgotten do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def reader(fd: int) -> Callable[[int, int], bytes]:
    """`read_at(count, offset)` of an open file."""
    return lambda count, offset: os.pread(fd, count, offset)


def first_kept(fd: int) -> int:
    """Where the first whole line begins that is still on disk."""
    try:
        first = os.lseek(fd, 0, os.SEEK_DATA)
    except OSError:  # nothing, or a file system that cannot tell
        return 0
    while first and (piece := os.pread(fd, 4096, first)):
        if (end := piece.find(b"\n")) >= 0:
            return first + end + 1
        first += len(piece)
    return first


def _container(record: Record, state: State | None, path: str) -> Container:
    phase = Phase.CREATED
    if state is not None:
        phase = Phase.RUNNING if state.exit_code is None else Phase.EXITED
    return Container(
        task=record.task,
        id=path,
        phase=phase,
        exit_code=(state.exit_code or 0) if state else 0,
        oom_killed=state.oom_killed if state else False,
        started_at=state.started_at if state else 0.0,
        ended_at=state.ended_at if state else 0.0,
        host_port=record.port,
        labels=record.labels,
        address="127.0.0.1",
    )


def _write(path: str, value: msgspec.Struct) -> None:
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(value))


def _read(path: str, kind: type[T]) -> T | None:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
