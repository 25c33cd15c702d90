"""A Raft folder of one member, made of a captured state: how a cluster begins.

It is written under another name, made durable and then renamed, so a folder that has the name is
whole. Whoever has the log of one master already converts it (`convert`).
"""

import posixpath
from collections.abc import Iterable
from itertools import chain

from orca_common.env import Env
from orca_master.state.log import FolderInUse
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import Configuration, Member, encode_configuration
from orca_master.state.solo import folder as folders
from orca_master.state.solo.snapshots import Snapshots

FIRST_INDEX = 2
"""Of the entry that the first snapshot stands for. A joiner's empty log ends with 1, so that it is
told apart and given the snapshot."""
UNFINISHED = ".new"
SEGMENT_BYTES = 1 << 20


async def found(
    env: Env,
    folder: str,
    *,
    cluster_id: str,
    node: str,
    address: str,
    capture: Iterable[bytes] = (),
    first_term: int = 0,
) -> None:
    """Make the folder of a cluster whose only member this is; its machine is restored from `capture`.

    `address` is the "host:port" of its Raft port, `capture` the parts of `Machine.capture` (none: an
    empty machine). Every term of it will be greater than `first_term`. Raises FolderInUse if the
    folder exists, and OSError; then nothing has the name.
    """
    await lay(
        env,
        folder,
        identity=folders.Identity(cluster=cluster_id, member=node),
        configuration=Configuration(members=(Member(node, address, is_voter=True),)),
        capture=capture,
        first_term=first_term,
    )


async def lay(
    env: Env,
    folder: str,
    *,
    identity: folders.Identity,
    configuration: Configuration,
    capture: Iterable[bytes],
    first_term: int,
) -> None:
    """As `found`, with any members."""
    disk = env.disk
    if disk.exists(folder):
        raise FolderInUse(f"{folder} exists already; a cluster is founded in a new folder")
    unfinished = folder + UNFINISHED
    folders.make_private_folder(disk, unfinished)
    release = folders.lock(disk, unfinished)
    try:
        for name in disk.list(unfinished):  # of an attempt that was cut short
            if name != folders.LOCK:
                disk.remove(posixpath.join(unfinished, name))
        parts = chain((encode_configuration(configuration),), capture)
        await Snapshots(env, unfinished).write(index=FIRST_INDEX, term=first_term, parts=parts)
        journal = Journal(env, unfinished, segment_bytes=SEGMENT_BYTES)
        try:
            journal.create()
            journal.setCurrentTerm(first_term, None)
            journal.reset(FIRST_INDEX, first_term, configuration)
            journal.write()
            journal.sync()
        finally:
            journal.close()
        folders.write_identity(env, unfinished, identity)
        disk.rename(unfinished, folder)
        disk.sync_folder(posixpath.dirname(folder))
    finally:
        release()
