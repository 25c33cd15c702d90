"""From the log of one master to a log that others may join: the same state, greater terms.

Which of the two is in force has one rule: the Raft folder, if it is there. It appears whole, by a
rename (`founding`); only when that is durable does the old log go, and what a crash has left of it
is removed by the next call.
"""

import posixpath

from orca_common.env import Disk, Env
from orca_common.logs import get_logger
from orca_master.state.log import DamagedLog, Machine
from orca_master.state.raft.founding import found
from orca_master.state.solo import folder as folders
from orca_master.state.solo.log import SoloLog

log = get_logger("state.raft")


async def convert(
    env: Env,
    solo_folder: str,
    raft_folder: str,
    *,
    cluster_id: str,
    node: str,
    address: str,
    machine: Machine,
) -> None:
    """Make the Raft folder of one member from the solo log, then remove that log.

    `node` is the member's name in both, `address` the "host:port" of its Raft port, `machine` an
    empty one, which holds the state afterwards unless the Raft folder was there already. Every term
    of the new log is greater than any that the old one had. The emptied solo folder stays.

    Raises what `SoloLog.start` raises (DamagedLog, FolderInUse, StorageFull), DamagedLog also if there
    is no log to convert, and OSError; then the solo log is in force as before.
    """
    disk = env.disk
    if not disk.exists(raft_folder):
        if not disk.exists(solo_folder) or not folders.is_identified(disk, solo_folder):
            raise DamagedLog(f"there is no log in {solo_folder} that could be converted")
        solo = SoloLog(env, solo_folder, cluster_id=cluster_id, member_name=node)
        await solo.start(machine)
        try:
            await found(
                env,
                raft_folder,
                cluster_id=cluster_id,
                node=node,
                address=address,
                capture=machine.capture(),
                first_term=solo.leadership.term,
            )
        finally:
            await solo.close()
        log.info("the log was converted", folder=raft_folder, first_term=solo.leadership.term)
    folders.check_identity(disk, raft_folder, folders.Identity(cluster=cluster_id, member=node))
    retire(env, solo_folder, cluster_id=cluster_id, node=node)


def retire(env: Env, solo_folder: str, *, cluster_id: str, node: str) -> None:
    """Empty the solo log's folder, if it is there, once the Raft folder is. Raises FolderInUse, OSError."""
    if env.disk.exists(solo_folder):
        _empty(env.disk, solo_folder, folders.Identity(cluster=cluster_id, member=node))


def _empty(disk: Disk, solo_folder: str, identity: folders.Identity) -> None:
    """The identity goes last: while it is there, the folder is known to be this member's."""
    release = folders.lock(disk, solo_folder)
    try:
        if not folders.is_identified(disk, solo_folder):
            return
        folders.check_identity(disk, solo_folder, identity)
        for name in disk.list(solo_folder):
            if name not in (folders.LOCK, folders.IDENTITY):
                disk.remove(posixpath.join(solo_folder, name))
        disk.sync_folder(solo_folder)
        disk.remove(posixpath.join(solo_folder, folders.IDENTITY))
        disk.sync_folder(solo_folder)
    finally:
        release()
