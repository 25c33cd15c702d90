"""Files with secrets, in memory only: a folder on tmpfs for each task, gone with the task.

    /dev/shm/orca-<mark>/        0700: nobody else of this machine gets in
    /dev/shm/orca-<mark>/<task>/ what a container sees as /run/secrets, a process as $ORCA_SECRETS

tmpfs may be swapped; nothing else of it reaches a disk. All calls block and are meant for a thread.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Sequence

from orca_proto.worker_pb2 import SecretFile
from orca_worker.runtime.port import RuntimeRefusal

IN_MEMORY = "/dev/shm"
IN_CONTAINER = "/run/secrets"
VARIABLE = "ORCA_SECRETS"
YOUNG_SECONDS = 600.0
"""So long a folder may be there before its task is."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


def in_memory(cluster: str, node: str, purpose: str = "", *, below: str = IN_MEMORY) -> str:
    """The folder of this node for what may be on no disk."""
    mark = hashlib.sha256(f"{cluster}/{node}".encode()).hexdigest()[:16]
    return os.path.join(below, "-".join(filter(None, ["orca", mark, purpose])))


class SecretFiles:
    """The folders of one node of one cluster. Raises RuntimeRefusal."""

    def __init__(self, cluster: str, node: str, *, below: str = IN_MEMORY) -> None:
        self._below = below
        self._root = in_memory(cluster, node, below=below)

    def path(self, task_id: str) -> str:
        if not _PART.fullmatch(task_id):
            raise RuntimeRefusal(f"task id {task_id!r} is not a name", permanent=True)
        return os.path.join(self._root, task_id)

    def put(self, task_id: str, files: Sequence[SecretFile]) -> str:
        """The task's folder with these files, whole or not at all; one that is there already stays."""
        path = self.path(task_id)
        try:
            self._prepare()
            if os.path.isdir(path):
                return path
            draft = os.path.join(self._root, f".new-{task_id}")
            shutil.rmtree(draft, ignore_errors=True)
            os.mkdir(draft)
            for file in files:
                _write(draft, file)
            os.chmod(draft, 0o755)
            os.rename(draft, path)
        except OSError as error:
            raise RuntimeRefusal(f"files with secrets cannot be made: {error.strerror}") from error
        return path

    def drop(self, task_id: str) -> None:
        """Remove the task's folder, if there is one."""
        shutil.rmtree(self.path(task_id), ignore_errors=True)

    def sweep(self, tasks: Collection[str], now: float) -> None:
        """Remove folders of tasks that are no more. `now` in Unix seconds."""
        if not os.path.isdir(self._root):
            return
        for entry in os.scandir(self._root):
            if entry.name not in tasks and now - entry.stat().st_mtime > YOUNG_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)

    def _prepare(self) -> None:
        if not _is_in_memory(self._below):
            raise RuntimeRefusal(
                f"files with secrets need {self._below} in memory (tmpfs) on this node: mount it"
            )
        try:
            os.mkdir(self._root, 0o700)
        except FileExistsError:
            found = os.lstat(self._root)
            mode = stat.S_IMODE(found.st_mode)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or mode != 0o700:
                raise RuntimeRefusal(
                    f"{self._root} is not this worker's own folder (0700): remove it"
                ) from None


def _write(folder: str, file: SecretFile) -> None:
    *folders, name = file.path.split("/")
    if not all(_PART.fullmatch(part) for part in [*folders, name]):
        raise RuntimeRefusal(f"{file.path!r} is no path of a secret's file", permanent=True)
    for part in folders:
        folder = os.path.join(folder, part)
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o755)
    path = os.path.join(folder, name)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as opened:
        opened.write(file.content)
        os.fchmod(fd, file.mode & 0o555 or 0o444)


def _is_in_memory(path: str) -> bool:
    """Whether the file system that has this path is tmpfs."""
    real, longest, kind = os.path.realpath(path), "", ""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            mounted = before.split()[4]
            holds = real == mounted or real.startswith(mounted.rstrip("/") + "/")
            if holds and len(mounted) >= len(longest):
                longest, kind = mounted, after.split()[0]
    return kind in ("tmpfs", "ramfs")
