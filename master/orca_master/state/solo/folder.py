"""Whose folder it is: the lock that one process holds, and the name of the cluster and the member.

The identity is written last when a log is created: a folder that has one has a whole log.
"""

import contextlib
import posixpath
from collections.abc import Callable
from typing import NoReturn

import msgspec

from orca_common.env import Disk, Env
from orca_master.state.log import DamagedLog, FolderInUse

FORMAT = 1
LOCK = "lock"
IDENTITY = "identity"


class Identity(msgspec.Struct, frozen=True):
    cluster: str
    member: str
    format: int = FORMAT


def make_private_folder(disk: Disk, folder: str) -> None:
    """The folder, readable by nobody else, with a name that is durable all the way up."""
    disk.make_folders(folder)
    parent = posixpath.dirname(folder)
    while True:
        # A folder above that we may not even list is not one that we have just created.
        with contextlib.suppress(PermissionError):
            disk.sync_folder(parent)
        if parent == posixpath.dirname(parent):
            return
        parent = posixpath.dirname(parent)


def lock(disk: Disk, folder: str) -> Callable[[], None]:
    """Take the folder for this process and return its release. Raises FolderInUse."""
    try:
        return disk.lock(posixpath.join(folder, LOCK))
    except BlockingIOError as error:
        raise FolderInUse(
            f"another process works in {folder}: stop it, or give this one another folder"
        ) from error


def is_identified(disk: Disk, folder: str) -> bool:
    return disk.exists(_path(folder))


def check_identity(disk: Disk, folder: str, ours: Identity) -> None:
    """Raises FolderInUse if the folder is another's, DamagedLog if nobody can say whose."""
    raw = disk.read(_path(folder))
    try:
        theirs = msgspec.json.decode(raw, type=Identity)
    except msgspec.MsgspecError as error:
        raise DamagedLog(
            f"{_path(folder)} is damaged: {error}. It names the cluster and the member as JSON; "
            "restore it from a backup."
        ) from error
    if theirs != ours:
        _refuse(folder, theirs, ours)


def write_identity(env: Env, folder: str, identity: Identity) -> None:
    temporary = _path(folder) + ".tmp"
    file = env.disk.open_append(temporary)
    try:
        file.truncate(0)
        file.write(msgspec.json.encode(identity))
        file.sync()
    finally:
        file.close()
    env.disk.rename(temporary, _path(folder))
    env.disk.sync_folder(folder)


def _refuse(folder: str, theirs: Identity, ours: Identity) -> NoReturn:
    if theirs.format != ours.format:
        raise FolderInUse(
            f"{folder} is of format {theirs.format}; this master knows {ours.format}: upgrade it"
        )
    raise FolderInUse(
        f"{folder} belongs to member {theirs.member} of cluster {theirs.cluster}, "
        f"not to member {ours.member} of cluster {ours.cluster}: give the right folder"
    )


def _path(folder: str) -> str:
    return posixpath.join(folder, IDENTITY)
