"""A network of masters in virtual time, with what goes wrong in real ones.

Between two masters there is at most one connection, each direction in order and delayed. A cut
breaks it: what is under way is lost, and the ends notice at different times. A direction that is
held keeps its messages back, as a stalled TCP connection does, until it is released or broken.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping

from orca_master.state.log import LogFailed
from orca_master.state.raft.codec import Message, decode_message, encode_message
from orca_master.state.raft.port import Connected, Disconnected, Event, Received

NORMAL_SECONDS = 0.001
MOST_TURNS = 1000


class Port:
    """One master's end of the network: `Network`."""

    def __init__(self, wires: "Wires", name: str) -> None:
        self._wires = wires
        self.name = name
        self.peers: dict[str, str] = {}
        self._events: list[Event] = []
        self._something = asyncio.Event()
        self._act: Callable[[], bool] = lambda: False
        self._is_asleep = False
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._turns = 0
        self._last_turn = -1.0
        self.is_up = True

    async def run(self) -> None:
        self._wires.attach(self)
        await asyncio.get_running_loop().create_future()

    def set_peers(self, peers: Mapping[str, str]) -> None:
        self.peers = dict(peers)
        if self.is_up:
            self._wires.look_for_peers(self)

    async def wait(self, seconds: float) -> None:
        """As the real one. Turns without end at one moment are a failure, not a hang of the test."""
        now = asyncio.get_running_loop().time()
        self._turns = self._turns + 1 if now == self._last_turn else 0
        self._last_turn = now
        if self._turns > MOST_TURNS:
            raise LogFailed(f"{self.name} turns and turns, and nothing comes of it")
        if seconds > 0 and not self._something.is_set():
            timer = asyncio.get_running_loop().call_later(seconds, self._something.set)
            self._is_asleep = True
            try:
                await self._something.wait()
            finally:
                self._is_asleep = False
            timer.cancel()
        else:
            await asyncio.sleep(0)
        self._something.clear()
        await self._may_run.wait()

    def wake(self) -> None:
        self._something.set()

    def on_arrival(self, act: Callable[[], bool]) -> None:
        self._act = act

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def send(self, peer: str, message: Message) -> None:
        if self.is_up:
            self._wires.send(self.name, peer, message)

    def drop(self, peer: str, *, reason: str) -> None:
        self._wires.breaks(self.name, peer)

    async def close(self) -> None:
        self.unplug()

    def unplug(self) -> None:
        """The process is gone: nothing leaves any more."""
        if self.is_up:
            self.is_up = False
            self._wires.detach(self)

    def pause(self, paused: bool) -> None:
        """The process gets no time (SIGSTOP, a stalled machine); what comes waits."""
        if paused:
            self._may_run.clear()
        else:
            self._may_run.set()

    def put(self, event: Event) -> None:
        if self.is_up:
            self._events.append(event)
            is_asleep = self._is_asleep and not self._something.is_set()
            if not (is_asleep and self._may_run.is_set() and self._act()):
                self._something.set()


class _Line:
    """One connection. `knows`: the ends that have been told of it."""

    def __init__(self, ends: tuple[Port, Port]) -> None:
        self.ends = ends
        self.is_open = True
        self.drains_from: str | None = None
        """The end that is gone, if what it had sent still arrives."""
        self.knows: set[str] = set()
        self.free_at: dict[str, float] = {}
        self.held: dict[str, list[Callable[[], None]]] = {}


class Wires:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._ports: dict[str, Port] = {}
        self._lines: dict[tuple[str, str], _Line] = {}
        self._cut: set[tuple[str, str]] = set()
        self._held: set[tuple[str, str]] = set()
        self.seconds: dict[tuple[str, str], float] = {}
        self.on_send: Callable[[str, str, Message], None] = lambda *_: None
        """Called when a message is under way; may raise what stops its sender."""
        self.repeat = 0.0
        """The chance that a message arrives a second time, up to seconds later."""
        self.sent = 0

    # What goes wrong.

    def cut(self, one: str, other: str) -> None:
        self._cut.add(_pair(one, other))
        self.breaks(one, other)

    def is_cut(self, one: str, other: str) -> bool:
        return _pair(one, other) in self._cut

    def hold(self, sender: str, receiver: str) -> None:
        self._held.add((sender, receiver))

    def heal(self) -> None:
        self._cut.clear()
        self.seconds.clear()
        held, self._held = sorted(self._held), set()
        for sender, receiver in held:
            line = self._lines.get(_pair(sender, receiver))
            for deliver in line.held.pop(receiver, []) if line is not None else []:
                deliver()
        for one, other in itertools.combinations(sorted(self._ports), 2):
            self._connect_soon(one, other)

    def breaks(self, one: str, other: str, *, drains_from: str | None = None) -> None:
        """The connection is lost; it comes again at once if nothing keeps it from that."""
        line = self._lines.pop(_pair(one, other), None)
        if line is None:
            return
        line.is_open = False
        line.drains_from = drains_from
        now = asyncio.get_running_loop().time()
        for end, peer in (line.ends, line.ends[::-1]):
            delay = self._chance.uniform(0, 0.03)
            if peer.name == drains_from:
                delay += max(0.0, line.free_at.get(end.name, now) - now)
            self._later(delay, lambda e=end, p=peer: self._tell_lost(line, e, p))
        self._connect_soon(one, other)

    # For the ports.

    def attach(self, port: Port) -> None:
        self._ports[port.name] = port
        for name in sorted(self._ports):
            if name != port.name:
                self._connect_soon(name, port.name)

    def look_for_peers(self, port: Port) -> None:
        if self._ports.get(port.name) is port:
            for name in sorted(port.peers):
                self._connect_soon(name, port.name)

    def detach(self, port: Port) -> None:
        if self._ports.get(port.name) is port:
            del self._ports[port.name]
            # A process that dies has often handed to the system what it sent last.
            drains_from = port.name if self._chance.random() < 0.7 else None
            for name in sorted(self._ports):
                self.breaks(name, port.name, drains_from=drains_from)

    def send(self, sender: str, receiver: str, message: Message) -> None:
        line = self._lines.get(_pair(sender, receiver))
        if line is None or sender not in line.knows:
            return
        self.sent += 1
        usual = self.seconds.get((sender, receiver), NORMAL_SECONDS)
        raw = encode_message(message)
        self._carry(line, sender, receiver, raw, usual * self._chance.uniform(0.5, 1.5))
        if self.repeat and self._chance.random() < self.repeat:
            self._later(self._chance.uniform(0, 3), lambda: self._repeat(sender, receiver, raw))
        self.on_send(sender, receiver, message)

    def _carry(self, line: _Line, sender: str, receiver: str, raw: bytes, delay: float) -> None:
        at = max(line.free_at.get(receiver, 0.0), asyncio.get_running_loop().time() + delay)
        line.free_at[receiver] = at + 1e-6

        def deliver() -> None:
            if (sender, receiver) in self._held or line.held.get(receiver):
                line.held.setdefault(receiver, []).append(deliver_now)
            else:
                deliver_now()

        def deliver_now() -> None:
            if not self._still_arrives(line, sender, receiver):
                return
            self._tell_connected(line, receiver, sender)
            port = next(end for end in line.ends if end.name == receiver)
            port.put(Received(sender, decode_message(raw)))

        asyncio.get_running_loop().call_at(at, deliver)

    def _still_arrives(self, line: _Line, sender: str, receiver: str) -> bool:
        if line.is_open:
            return True
        newer = self._lines.get(_pair(sender, receiver))
        return (
            line.drains_from == sender
            and receiver in line.knows
            and (newer is None or receiver not in newer.knows)
        )

    def _repeat(self, sender: str, receiver: str, raw: bytes) -> None:
        port = self._ports.get(receiver)
        if port is not None:
            port.put(Received(sender, decode_message(raw)))

    def _connect_soon(self, one: str, other: str) -> None:
        self._later(self._chance.uniform(0.002, 0.06), lambda: self._connect(one, other))

    def _connect(self, one: str, other: str) -> None:
        pair = _pair(one, other)
        if pair in self._cut or pair in self._lines:
            return
        ends = self._ports.get(pair[0]), self._ports.get(pair[1])
        if ends[0] is None or ends[1] is None:
            return
        if pair[1] not in ends[0].peers and pair[0] not in ends[1].peers:
            return
        line = self._lines[pair] = _Line((ends[0], ends[1]))
        for end, peer in (line.ends, line.ends[::-1]):
            self._later(
                self._chance.uniform(0, 0.01),
                lambda e=end, p=peer: self._tell_connected(line, e.name, p.name),
            )

    def _tell_connected(self, line: _Line, name: str, peer: str) -> None:
        if line.is_open and name not in line.knows:
            line.knows.add(name)
            port = next(end for end in line.ends if end.name == name)
            port.put(Connected(peer))

    def _tell_lost(self, line: _Line, end: Port, peer: Port) -> None:
        newer = self._lines.get(_pair(end.name, peer.name))
        if peer.name == line.drains_from:
            line.drains_from = None
        if end.name in line.knows and (newer is None or end.name not in newer.knows):
            end.put(Disconnected(peer.name))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, act)


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
