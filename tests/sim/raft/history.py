"""One random history of a cluster of masters: what clients do, what breaks, and what must stay true.

Everything is drawn from the seed. Whatever happens:

- nobody but one master sends as a leader in a term,
- states of equal version are equal, on every master, also after a restart or a snapshot,
- what was acknowledged is there at the end, once; what was refused is not,
- reads, writes and swaps of the registers have an order that explains every answer,
- no master ever fails or finds its own disk damaged,
- when all is healed, all arrive at one state and take writes again.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from orca_master.errors import NotLeader, OutcomeUnknown, Refusal, StorageFull
from orca_master.state.log import DamagedLog, LogFailed
from orca_master.state.raft.codec import Append, Message, Piece
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from sim.raft.linearizability import UNKNOWN, Operation, is_linearizable
from sim.raft.network import Wires
from sim.raft.node import ITEMS, REGISTERS, Crash, Items, Register, SimNode
from sim.raft.promises import PROMISES, is_promise

CONVERGE_SECONDS = 20.0
CLIENT_SECONDS = 1.5
"""How long a client waits for an answer."""
REGISTER_NAMES = ("a", "b", "c")


class Violation(AssertionError):
    """Something that must always be true is not."""


class NotAsExpected(Refusal):
    """A swap found another value."""


@dataclass
class History:
    seed: int
    masters: int = 3
    seconds: float = 10.0
    """How long things break."""
    duplicates: bool = False
    """Some messages arrive twice, at once or much later. No connection of ours does that."""
    counts: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.wires = Wires(self.chance)
        self.wires.on_send = self._watch
        if self.duplicates:
            self.wires.repeat = 0.1
        names = [f"m{number}" for number in range(1, self.masters + 1)]
        self.nodes = [SimNode(name, self.wires, self.chance) for name in names]
        for node in self.nodes:
            node.on_state = self._check_state
        self._born = itertools.count(self.masters + 1)
        self._leaders: dict[int, str] = {}
        self._rows: dict[int, dict[tuple[str, tuple[str, ...]], bytes]] = {}
        self._operations: dict[str, list[Operation]] = {name: [] for name in REGISTER_NAMES}
        self._acknowledged: list[str] = []
        self._refused: set[str] = set()
        self._numbers = itertools.count(1)
        self._quiet = False
        self._down: set[str] = set()
        self._fatal: dict[str, type[Message]] = {}
        self.last_leader: str | None = None
        self.violation: Violation | None = None

    async def run(self) -> None:
        for node in self.nodes:
            await node.lay([n.name for n in self.nodes])
            await self._start(node)
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(self._client()) for _ in range(4)]
            clients += [group.create_task(self._reader()) for _ in range(2)]
            breaking = [group.create_task(self._break()) for _ in range(2)]
            for task in breaking:
                await task
            await self._heal_all()
            self._quiet = True
            for client in clients:
                await client
            await self._converge()
        for node in self.nodes:
            await node.stop(power_loss=False)
        self._check_end()

    @property
    def fingerprint(self) -> str:
        """Of everything that happened: equal if and only if the history was the same."""
        told = (self.story, sorted(self.counts.items()), self.wires.sent, self._acknowledged)
        states = sorted((version, sorted(rows.items())) for version, rows in self._rows.items())
        return sha256(repr((told, states, self._operations)).encode()).hexdigest()

    # Clients.

    async def _client(self) -> None:
        node = self.chance.choice(self.nodes)
        while not self._quiet:
            await asyncio.sleep(self.chance.uniform(0.0, 0.12))
            node = self._choose(node)
            if node.store is None:
                continue
            verb = self.chance.choice((self._read, self._write, self._swap, self._append))
            self.counts["requests"] += 1
            try:
                await verb(node.store)
            except NotLeader:
                self.counts["not leader"] += 1
                node = self.chance.choice(self.nodes)
            except StorageFull:
                self.counts["storage full"] += 1
                node = self.chance.choice(self.nodes)
            except (OutcomeUnknown, LogFailed, TimeoutError):
                self.counts["unknown"] += 1
                node = self.chance.choice(self.nodes)
            else:
                self.counts["acknowledged"] += 1

    async def _reader(self) -> None:
        """Asks whoever says that he leads, of whom there may be two; no write of its own delays it."""
        while not self._quiet:
            await asyncio.sleep(self.chance.uniform(0.0, 0.1))
            leading = [n for n in self.nodes if n.store and n.store.leadership.is_leader]
            store = self.chance.choice(leading).store if leading else None
            if store is None:
                continue
            try:
                await self._read(store)
            except (NotLeader, OutcomeUnknown, LogFailed, TimeoutError):
                self.counts["reads refused"] += 1

    def _choose(self, before: SimNode) -> SimNode:
        if before.log is not None and before.is_up and self.chance.random() < 0.95:
            leader = before.log.leadership.leader
            return next((n for n in self.nodes if n.name == leader), before)
        return self.chance.choice(self.nodes)

    async def _read(self, store: Store) -> None:
        name, called = self.chance.choice(REGISTER_NAMES), self._now()
        async with asyncio.timeout(CLIENT_SECONDS):
            state = await store.fresh()
        row = state.get(REGISTERS, name)
        self._record(
            name, Operation(called, self._now(), "read", answer=row.value if row else None)
        )

    async def _write(self, store: Store) -> None:
        name, value, called = self.chance.choice(REGISTER_NAMES), next(self._numbers), self._now()

        def change(tx: Transaction) -> None:
            tx.put(REGISTERS, Register(name, value))

        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                await store.update(change)
        except (OutcomeUnknown, LogFailed, TimeoutError):
            self._record(name, Operation(called, UNKNOWN, "write", value))
            raise
        self._record(name, Operation(called, self._now(), "write", value))

    async def _swap(self, store: Store) -> None:
        name, value, called = self.chance.choice(REGISTER_NAMES), next(self._numbers), self._now()
        row = store.state.get(REGISTERS, name)
        expected = row.value if row else None

        def change(tx: Transaction) -> None:
            found = tx.get(REGISTERS, name)
            if (found.value if found else None) != expected:
                raise NotAsExpected("somebody was faster")
            tx.put(REGISTERS, Register(name, value))

        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                await store.update(change)
        except NotAsExpected:
            self._record(name, Operation(called, self._now(), "swap", value, expected, False))
        except (OutcomeUnknown, LogFailed, TimeoutError):
            self._record(name, Operation(called, UNKNOWN, "swap", value, expected))
            raise
        else:
            self._record(name, Operation(called, self._now(), "swap", value, expected, True))

    async def _append(self, store: Store) -> None:
        name, token = self.chance.choice(("x", "y")), f"t{next(self._numbers)}"

        def change(tx: Transaction) -> None:
            row = tx.get(ITEMS, name) or Items(name, [])
            tx.put(ITEMS, Items(name, [*row.tokens, token]))

        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                await store.update(change)
        except (NotLeader, StorageFull):
            self._refused.add(token)
            raise
        self._acknowledged.append(token)

    def _record(self, name: str, operation: Operation) -> None:
        self._operations[name].append(operation)

    # What breaks.

    async def _break(self) -> None:
        until = self._now() + self.seconds
        faults = self._faults()
        while self._now() < until:
            await asyncio.sleep(self.chance.expovariate(1.5))
            self._check_failures()
            await self.chance.choice([*faults, History.heal])(self)

    def _faults(self) -> list[Callable[[Any], Awaitable[None]]]:
        return [fault for fault in FAULTS if self.chance.random() < 0.6]

    async def kill(self) -> None:
        await self._take_down(self.chance.choice(self.nodes), power_loss=False)

    async def power_loss(self) -> None:
        await self._take_down(self.chance.choice(self.nodes), power_loss=True)

    async def power_loss_of_all(self) -> None:
        self._tell("power loss of all")
        nodes = [node for node in self.nodes if node.name not in self._down]
        self._down.update(node.name for node in nodes)
        for node in nodes:
            await node.stop(power_loss=True)
        await asyncio.sleep(self.chance.uniform(0.0, 0.5))
        for node in nodes:
            await self._start(node)
            self._down.discard(node.name)

    async def crash_in_a_write(self) -> None:
        """The machine stops between two changes of its disk, or in the middle of one."""
        node = self._leader_or_any()
        if not node.is_up:
            return
        node.disk.changes_left = self.chance.randint(1, 12)
        self._tell(f"{node.name}: stops at its disk's change {node.disk.changes_left}")
        await asyncio.sleep(self.chance.uniform(0.05, 0.6))
        await self._take_down(node, power_loss=True)

    async def crash_after_a_promise(self) -> None:
        """The machine stops at the very moment in which a vote or an acknowledgement has left it."""
        node = self.chance.choice(self.nodes)
        if not node.is_up or node.name in self._down:
            return
        kind = self.chance.choice(PROMISES)
        self._tell(f"{node.name}: stops after a {kind.__name__}")
        self._fatal[node.name] = kind
        await asyncio.sleep(self.chance.uniform(0.05, 1.0))
        self._fatal.pop(node.name, None)
        if not node.is_up:
            await self._take_down(node, power_loss=True, seconds=self.chance.uniform(0, 0.2))

    async def pause(self) -> None:
        node, seconds = self._leader_or_any(), self.chance.uniform(0.05, 2.5)
        if node.port is None:
            return
        self._tell(f"{node.name}: paused for {seconds:.2f} s")
        port = node.port
        port.pause(True)
        await asyncio.sleep(seconds)
        port.pause(False)

    async def partition(self) -> None:
        side = {node.name for node in self.nodes if self.chance.random() < 0.5}
        self._tell(f"partition: {sorted(side)} and the others")
        for one, other in itertools.combinations([n.name for n in self.nodes], 2):
            if (one in side) != (other in side):
                self.wires.cut(one, other)

    async def isolate_leader(self) -> None:
        leader = self._leader_or_any()
        self._tell(f"{leader.name}: isolated")
        for node in self.nodes:
            if node is not leader:
                self.wires.cut(leader.name, node.name)

    async def hold_one_way(self) -> None:
        one, other = self.chance.sample(self.nodes, 2)
        self._tell(f"{one.name} → {other.name}: held")
        self.wires.hold(one.name, other.name)

    async def slow_link(self) -> None:
        one, other = self.chance.sample(self.nodes, 2)
        seconds = self.chance.choice((0.02, 0.1, 0.4, 1.0))
        self._tell(f"{one.name} → {other.name}: takes {seconds} s")
        self.wires.seconds[one.name, other.name] = seconds

    async def reconnect_storm(self) -> None:
        one, other = self.chance.sample(self.nodes, 2)
        self._tell(f"{one.name} - {other.name}: connection breaks again and again")
        for _ in range(10):
            self.wires.breaks(one.name, other.name)
            await asyncio.sleep(self.chance.uniform(0.0, 0.15))

    async def slow_disk(self) -> None:
        node = self.chance.choice(self.nodes)
        seconds = self.chance.choice((0.0, 0.002, 0.02, 0.3))
        self._tell(f"{node.name}: its disk takes {seconds} s")
        node.disk.sync_seconds = node.threads.seconds = seconds

    async def full_disk(self) -> None:
        node = self._leader_or_any()
        used = sum(map(len, node.disk.image().values()))
        self._tell(f"{node.name}: its disk is full")
        node.disk.capacity = used + self.chance.randint(0, 200)
        await asyncio.sleep(self.chance.uniform(0.1, 2.0))
        node.disk.capacity = None

    async def transfer(self) -> None:
        leader = self._leader_or_any()
        if leader.log is not None and leader.is_up:
            self._tell(f"{leader.name}: hands over")
            await leader.log.transfer()

    async def heal(self) -> None:
        self._tell("the network is healed")
        self.wires.heal()

    async def _take_down(
        self, node: SimNode, *, power_loss: bool, seconds: float | None = None
    ) -> None:
        if node.name in self._down:
            return
        self._down.add(node.name)
        self._tell(f"{node.name}: {'power loss' if power_loss else 'kill'}")
        await node.stop(power_loss=power_loss)
        await asyncio.sleep(self.chance.uniform(0.0, 1.5) if seconds is None else seconds)
        await self._start(node)
        self._down.discard(node.name)

    async def _start(self, node: SimNode) -> None:
        self._tell(f"{node.name}: starts")
        if self.chance.random() < 0.05:
            node.disk.changes_left = self.chance.randint(1, 30)
        while True:
            try:
                await node.start()
            except Crash:
                await node.stop(power_loss=True)
            except DamagedLog as damage:
                raise self._violated(f"{node.name} refuses its own disk: {damage}") from damage
            else:
                return

    async def _heal_all(self) -> None:
        self._tell("all is healed")
        self.wires.heal()
        for node in self.nodes:
            node.disk.capacity = node.disk.changes_left = None
            node.disk.sync_seconds = node.threads.seconds = 0.0
            if not node.is_up:
                await node.stop(power_loss=self.chance.random() < 0.5)
                await self._start(node)
                node.disk.changes_left = None

    def _leader_or_any(self) -> SimNode:
        leaders = [node for node in self.nodes if node.name == self.last_leader]
        return self.chance.choice(leaders if self.chance.random() < 0.7 and leaders else self.nodes)

    # What must stay true.

    def _watch(self, sender: str, receiver: str, message: Message) -> None:
        if isinstance(message, Append | Piece):
            leader = self._leaders.setdefault(message.term, sender)
            if leader != sender:
                self._violated(f"{leader} and {sender} both lead in term {message.term}")
            self.last_leader = sender
        if isinstance(message, self._fatal.get(sender, ())) and is_promise(message):
            del self._fatal[sender]
            next(node for node in self.nodes if node.name == sender).vanish()
            raise Crash

    def _check_state(self, node: SimNode, state: State, entry: bytes | None) -> None:
        self.counts["snapshots restored" if entry is None else "entries applied"] += 1
        rows = {(table, key): raw for table, key, raw in state.raw_rows()}
        expected = self._rows.setdefault(state.version, rows)
        if rows != expected:
            self._violated(f"{node.name} has another state of version {state.version}")

    def _check_failures(self) -> None:
        if self.violation is not None:
            raise self.violation
        for node in self.nodes:
            if node.failure is not None:
                self._violated(f"{node.name} failed: {node.failure}")

    async def _converge(self) -> None:
        until = self._now() + CONVERGE_SECONDS
        while True:
            self._check_failures()
            if await self._has_converged():
                return
            if self._now() > until:
                versions = {n.name: n.store.state.version if n.store else None for n in self.nodes}
                terms = {n.name: n.log.leadership if n.log else None for n in self.nodes}
                self._violated(f"not converged: {versions}, {terms}")
            await asyncio.sleep(0.2)

    async def _has_converged(self) -> bool:
        leaders = [n for n in self.nodes if n.log and n.log.leadership.is_leader]
        if len(leaders) != 1 or leaders[0].store is None:
            return False
        token = f"last{next(self._numbers)}"

        def change(tx: Transaction) -> None:
            tx.put(ITEMS, Items("end", [token]))

        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                await leaders[0].store.update(change)
        except (NotLeader, OutcomeUnknown, StorageFull, TimeoutError):
            return False
        await asyncio.sleep(0.5)
        return self._are_equal(leaders[0])

    def _are_equal(self, leader: SimNode) -> bool:
        versions = {n.store.state.version if n.store is not None else None for n in self.nodes}
        return len(versions) == 1

    def _check_end(self) -> None:
        rows = self._rows[max(self._rows)]
        found: Counter[str] = Counter()
        for name in ("x", "y"):
            raw = rows.get((ITEMS.name, (name,)))
            found.update(ITEMS.decode(raw).tokens if raw is not None else [])
        lost = [token for token in self._acknowledged if token not in found]
        if lost:
            self._violated(f"acknowledged and lost: {lost}")
        twice = [token for token, count in found.items() if count > 1]
        if twice:
            self._violated(f"applied twice: {twice}")
        if refused := sorted(self._refused & set(found)):
            self._violated(f"refused and done all the same: {refused}")
        for name, operations in self._operations.items():
            self.counts["operations ordered"] += len(operations)
            if not is_linearizable(operations):
                self._violated(f"register {name} has no order that explains its answers")
        self.counts["terms"] += len(self._leaders)
        self._check_failures()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _tell(self, event: str) -> None:
        self.counts["faults"] += 1
        self.story.append(f"{self._now():8.3f} {event}")

    def _violated(self, what: str) -> Violation:
        told = "\n".join(self.story[-40:])
        violation = Violation(f"seed {self.seed}, at {self._now():.3f} s: {what}\n{told}")
        self.violation = self.violation or violation
        raise self.violation


FAULTS = (
    History.kill,
    History.power_loss,
    History.power_loss_of_all,
    History.crash_in_a_write,
    History.crash_after_a_promise,
    History.crash_after_a_promise,
    History.pause,
    History.partition,
    History.isolate_leader,
    History.hold_one_way,
    History.slow_link,
    History.reconnect_storm,
    History.slow_disk,
    History.full_disk,
    History.transfer,
)
