"""What is known of PySyncObj's inside: the names of its private parts, and what is put in their place.

The package is used as it is, not forked. Its clock, its randomness, its pickle, its poller and its
journal are replaced from here, so that an engine lives in its `Env` alone and nothing is unpickled.
Private names were checked against one version; another is refused at import.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import pysyncobj.syncobj as library
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from orca_common.env import Env
from orca_master.state.raft.codec import LibraryCodec
from orca_master.state.raft.journal import Journal

SUPPORTED_VERSION = "0.3.17"

if VERSION != SUPPORTED_VERSION:
    raise ImportError(
        f"PySyncObj {VERSION} is installed; private names of {SUPPORTED_VERSION} are overridden"
        f" here, so exactly that version is needed: pip install pysyncobj=={SUPPORTED_VERSION}"
    )

# syncobj.py calls `pickle.loads` on commands, membership requests and whole connections' bytes.
library.pickle = LibraryCodec

FOLLOWER = library._RAFT_STATE.FOLLOWER
CANDIDATE = library._RAFT_STATE.CANDIDATE
LEADER = library._RAFT_STATE.LEADER


class Seat(Node):  # type: ignore[misc]
    """A node named by its id. Its hash is the same in every process, and so is the order of a set."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._hash = crc32(id.encode())  # asked for a dozen times in each tick

    def __hash__(self) -> int:
        return self._hash


class Outlet(Transport):  # type: ignore[misc]
    """The library's transport: hands every message of the engine to one function, at once."""

    def __init__(self, send: Callable[[Seat, dict[str, Any]], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Seat, message: dict[str, Any]) -> bool:
        self._send(node, message)
        return True


class IdlePoller:
    """Nothing is polled: the event loop tells the driver."""

    def poll(self, timeout: float) -> None:
        """Called at the end of each tick (syncobj.py, _onTick)."""


class NoSerializer:
    """Snapshots are `snapshot`'s. The library only asks whether one is under way."""

    def checkSerializing(self) -> tuple[int, None]:
        return library.SERIALIZER_STATE.SERIALIZING, None

    def cancelTransmisstion(self, node: Seat) -> None:
        """Called for a node that is not connected; nothing is under way here."""


class OnClockOf:
    """While the library's code runs, its module's clock is this engine's; several share a process.

    A class, because it is entered for every message; not to be entered twice at once.
    """

    __slots__ = ("_before", "_ours")

    def __init__(self, env: Env) -> None:
        self._ours = env.monotonic

    def __enter__(self) -> None:
        self._before = library.monotonicTime
        library.monotonicTime = self._ours

    def __exit__(self, *_: object) -> None:
        library.monotonicTime = self._before


@contextmanager
def with_journal(journal: Journal) -> Iterator[None]:
    """The library makes its journal itself, from a file name (syncobj.py, __init__)."""
    before = library.createJournal
    library.createJournal = lambda _file: journal
    try:
        yield
    finally:
        library.createJournal = before
