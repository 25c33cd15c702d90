"""What the driver needs of a network: the real one is `transport`, the simulated one lives with the tests.

There is one connection between two masters. On it messages arrive in the order in which they were
sent, each once, or not at all once it is lost; both ends are told when it comes and goes. Nothing
is promised across connections.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from orca_master.state.raft.codec import Message


@dataclass(frozen=True, slots=True)
class Connected:
    """A new connection: what was sent before and has not arrived never will."""

    peer: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    peer: str


@dataclass(frozen=True, slots=True)
class Received:
    peer: str
    message: Message


Event = Connected | Disconnected | Received


class Network(Protocol):
    async def run(self) -> None:
        """Keep connections to all peers, until cancelled."""
        ...

    def set_peers(self, peers: Mapping[str, str]) -> None:
        """From now on keep connections to these: id → "host:port". Also before `run`.

        A connection to one that is not among them stays, and others may connect: who is heard is
        the protocol's matter, that they are masters of this cluster the network's.
        """
        ...

    async def wait(self, seconds: float) -> None:
        """Return when something has happened, when `wake` was called since the last wait, or then."""
        ...

    def wake(self) -> None: ...

    def on_arrival(self, act: Callable[[], bool]) -> None:
        """While `wait` waits, call this when something has happened, before it returns for that.

        If it says True, all of it was taken and seen to, and the wait goes on.
        """
        ...

    def take(self) -> list[Event]:
        """What has happened since the last call, in order."""
        ...

    def send(self, peer: str, message: Message) -> None:
        """Queue a message on the present connection; without one it is lost."""
        ...

    def drop(self, peer: str, *, reason: str) -> None:
        """Close the connection to a peer that made no sense; it may come again."""
        ...

    async def close(self) -> None: ...
