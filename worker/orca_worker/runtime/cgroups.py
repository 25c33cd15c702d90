"""Control groups, version 1 or 2, found by looking and trying: limits, use, killing to the last.

What is missing is done without: every function answers with less rather than raising. Called in
threads; the paths are small pseudo files.
"""

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass

PIDS_LIMIT = 4096
CPU_PERIOD_MICROSECONDS = 100_000
FOLDER = "orca"


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory now, and processor time since the group began."""

    memory_bytes: int
    cpu_seconds: float

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.memory_bytes + other.memory_bytes, self.cpu_seconds + other.cpu_seconds)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where the controllers are mounted. Version 2 has one mount, under the key "unified"."""

    version: int
    mounts: dict[str, str]

    def folders(self, name: str) -> list[str]:
        """The folders of one group, named from the root of the hierarchy."""
        return sorted({os.path.join(mount, name) for mount in self.mounts.values()})


def find_hierarchy() -> Hierarchy | None:
    """The hierarchy that has the memory controller, or None."""
    version_1: dict[str, str] = {}
    unified = ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        mount = fields.split(" ")[4]
        if kind == "cgroup2":
            unified = mount
        elif kind == "cgroup":
            for controller in ("memory", "cpu", "cpuacct", "pids"):
                if controller in options.split(" ")[-1].split(","):
                    version_1[controller] = mount
    if "memory" in version_1:
        return Hierarchy(1, version_1)
    return Hierarchy(2, {"unified": unified}) if unified else None


class Groups:
    """The groups that Orca makes itself, one per task, below a folder of its own.

    `enforce` says whether memory and processor limits take effect here, found by making a group.
    """

    def __init__(self) -> None:
        self.hierarchy = find_hierarchy()
        self.enforce = self.hierarchy is not None and self._try()

    def make(self, task_id: str, *, memory_bytes: int, cpu_millis: int) -> list[str]:
        """Make the task's group with its limits (0: none); its folders, as far as that worked."""
        if self.hierarchy is None or not self.enforce:
            return []
        made = []
        for folder in self.hierarchy.folders(f"{FOLDER}/{task_id}"):
            with contextlib.suppress(OSError):
                os.makedirs(folder, mode=0o755, exist_ok=True)
                made.append(folder)
        for name, value in self._limits(memory_bytes, cpu_millis):
            for folder in made:
                _write(os.path.join(folder, name), value)
        return made

    def _limits(self, memory_bytes: int, cpu_millis: int) -> list[tuple[str, str]]:
        quota = cpu_millis * CPU_PERIOD_MICROSECONDS // 1000
        limits = [("pids.max", str(PIDS_LIMIT))]
        first = self.hierarchy is not None and self.hierarchy.version == 1
        if memory_bytes and first:
            # Together with swap second: it may not be lower than without.
            limits.append(("memory.limit_in_bytes", str(memory_bytes)))
            limits.append(("memory.memsw.limit_in_bytes", str(memory_bytes)))
        elif memory_bytes:
            limits += [("memory.max", str(memory_bytes)), ("memory.swap.max", "0")]
        if cpu_millis and first:
            limits.append(("cpu.cfs_quota_us", str(quota)))
        elif cpu_millis:
            limits.append(("cpu.max", f"{quota} {CPU_PERIOD_MICROSECONDS}"))
        return limits

    def _try(self) -> bool:
        assert self.hierarchy is not None
        if self.hierarchy.version == 1:
            files = {"memory": "memory.limit_in_bytes", "cpu": "cpu.cfs_quota_us"}
            needed = {self.hierarchy.mounts.get(kind, ""): file for kind, file in files.items()}
        else:
            root = self.hierarchy.mounts["unified"]
            needed = {root: "memory.max"}
            for parent in (root, os.path.join(root, FOLDER)):
                with contextlib.suppress(OSError):
                    os.makedirs(parent, mode=0o755, exist_ok=True)
                for controller in ("memory", "cpu", "pids"):
                    _write(os.path.join(parent, "cgroup.subtree_control"), f"+{controller}")
        for mount, file in needed.items():
            probe = os.path.join(mount, FOLDER, f"probe-{os.getpid()}")
            try:
                os.makedirs(probe, mode=0o755, exist_ok=True)
                writable = os.access(os.path.join(probe, file), os.W_OK)
                os.rmdir(probe)
            except OSError:
                return False
            if not mount or not writable:
                return False
        return True


def usage(folders: Iterable[str]) -> Usage:
    """What the group in these folders uses; zeros for what cannot be read."""
    memory, cpu = 0, 0.0
    for folder in folders:
        stat = _numbers(os.path.join(folder, "memory.stat"))
        current = _number(folder, "memory.current") or _number(folder, "memory.usage_in_bytes")
        # Cache that the kernel would give back at once is not what the task uses.
        memory += max(0, current - stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        if nanoseconds := _number(folder, "cpuacct.usage"):
            cpu += nanoseconds / 1e9
        else:
            cpu += _numbers(os.path.join(folder, "cpu.stat")).get("usage_usec", 0) / 1e6
    return Usage(memory, cpu)


def members(folders: Iterable[str]) -> set[int]:
    """The processes in the group."""
    found: set[int] = set()
    for folder in folders:
        with contextlib.suppress(OSError), open(os.path.join(folder, "cgroup.procs")) as file:
            found.update(int(line) for line in file)
    return found


def kill(folders: Iterable[str]) -> None:
    """SIGKILL to everything in the group."""
    for pid in members(folders):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def remove(folders: Iterable[str]) -> None:
    """Remove the group; it must be empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _write(path: str, value: str) -> None:
    # A file that this group's controller does not have is not made: O_CREAT is left out.
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _number(folder: str, name: str) -> int:
    try:
        with open(os.path.join(folder, name)) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _numbers(path: str) -> dict[str, int]:
    try:
        with open(path) as file:
            return {key: int(value) for key, _, value in (line.partition(" ") for line in file)}
    except (OSError, ValueError):
        return {}
