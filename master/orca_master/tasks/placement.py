"""Which node a task goes to. Pure and deterministic: same input, same answer, with the reason.

Filters say where a task can run; every refusal is counted by its reason, so that a task that fits
nowhere can say why. A memory limit is reserved unless something else is asked for; a processor limit
is not, because processors can be shared (docs/adr/0006-limits-and-reservations.md).

Nodes that are not heard of just now come last: what is placed there may have to move in a moment.
Among the other fitting nodes one with the value of the `spread` label wins that has the fewest replicas of
the same owner; of those the one with the lowest cost, then the one with the largest free share (the
smallest, where replicas are packed), then the name. The cost is counted in replicas:

    replicas of the same owner on the node             (none where they are packed)
    + recent failures of the owner on the node
    - the weights of all affinities that hold, by 100
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush, heapreplace
from itertools import groupby

from orca_master.cluster.model import Node, NodeState
from orca_master.tasks.constraints import Constraints, holds
from orca_master.tasks.model import TaskSpec


@dataclass(frozen=True, slots=True)
class Demand:
    """A task to place. `home`: id of the node that has its volumes, if there is one."""

    task: str
    owner: str
    spec: TaskSpec
    constraints: Constraints
    revision: int = 0
    home: str = ""

    @property
    def memory_bytes(self) -> int:
        """What is set aside for it."""
        return reserved_memory(self.spec, self.constraints)


def reserved_memory(spec: TaskSpec, constraints: Constraints) -> int:
    asked = constraints.memory_bytes
    return spec.memory_bytes if asked is None else asked


@dataclass
class Room:
    """A node and what is left of it while a plan is being made. Capacity 0 is unknown: no limit.

    `cpu_millis` counts limits, which weigh in the choice; `reserved_cpu_millis` what is set aside.
    `is_doubtful`: nothing was heard of it just now.
    """

    node: Node
    memory_bytes: int = 0
    cpu_millis: int = 0
    reserved_cpu_millis: int = 0
    host_ports: set[int] = field(default_factory=set)
    owners: Counter[str] = field(default_factory=Counter)
    revisions: set[tuple[str, int]] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)
    is_doubtful: bool = False

    @cached_property
    def labels(self) -> dict[str, str]:
        return self.node.all_labels

    def take(self, owner: str, spec: TaskSpec, constraints: Constraints, revision: int) -> None:
        self.memory_bytes += reserved_memory(spec, constraints)
        self.cpu_millis += max(spec.cpu_millis, constraints.cpu_millis)
        self.reserved_cpu_millis += constraints.cpu_millis
        self.owners[owner] += 1
        self.revisions.add((owner, revision))
        if spec.host_port:
            self.host_ports.add(spec.host_port)

    def used_share(self) -> float:
        facts = self.node.facts
        memory = self.memory_bytes / facts.memory_bytes if facts.memory_bytes else 0.0
        cpu = self.cpu_millis / facts.cpu_millis if facts.cpu_millis else 0.0
        return max(memory, cpu)


@dataclass(frozen=True, slots=True)
class Placement:
    """`node` is the chosen node's id, or empty with the reason in words."""

    task: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What speaks against a node, in replicas; `affinity` speaks for it. `spread` counts those on all
    nodes with the same value of the spread label; `share` is of the node's capacity."""

    replicas: int
    spread: int
    failures: int
    affinity: float
    share: float

    @property
    def total(self) -> float:
        return self.replicas + self.failures - self.affinity


Preference = tuple[bool, int, float, float, str]
"""The lowest is the best."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one node stands for a demand: `refusal` says why it cannot run there, else None."""

    room: Room
    refusal: str | None
    cost: Cost


def place(demands: Iterable[Demand], rooms: Sequence[Room]) -> list[Placement]:
    """Place each demand in order; each takes its room before the next is looked at."""
    return [
        placement
        for _, alike in groupby(demands, key=_what_matters)
        for placement in _Alike(list(alike), rooms).place()
    ]


def _what_matters(demand: Demand) -> tuple[object, ...]:
    return demand.owner, demand.revision, demand.spec, demand.constraints, demand.home


def verdicts(demand: Demand, rooms: Sequence[Room]) -> list[Verdict]:
    """Every node as `place` sees it for this demand, the best first."""
    look = _Alike([demand], rooms)
    found = [Verdict(room, refusal(demand, room), look.cost(room)) for room in rooms]
    return sorted(found, key=lambda v: (v.refusal is not None, look.preference(v.room)))


class _Alike:
    """Demands that differ in nothing: every room is looked at once, then only the one just taken."""

    def __init__(self, demands: Sequence[Demand], rooms: Sequence[Room]) -> None:
        self._demands = demands
        self._rooms = rooms
        self._first = demands[0]
        self._spread = self._first.constraints.spread
        self._by_value: Counter[str | None] = Counter()
        if self._spread:
            for room in rooms:
                value = room.labels.get(self._spread)
                self._by_value[value] += room.owners[self._first.owner]

    def place(self) -> Iterator[Placement]:
        fitting = [room for room in self._rooms if refusal(self._first, room) is None]
        best = [(self.preference(room), place) for place, room in enumerate(fitting)]
        heapify(best)
        reason = ""
        for demand in self._demands:
            if not self._settle(best, fitting):
                reason = reason or _why_nowhere(demand, self._rooms)
                yield Placement(demand.task, "", reason)
                continue
            place = best[0][1]
            room = fitting[place]
            room.take(demand.owner, demand.spec, demand.constraints, demand.revision)
            self._by_value[room.labels.get(self._spread)] += 1
            yield Placement(demand.task, room.node.id, "")
            if refusal(demand, room) is None:
                heapreplace(best, (self.preference(room), place))
            else:
                heappop(best)

    def _settle(self, best: list[tuple[Preference, int]], fitting: Sequence[Room]) -> bool:
        """Bring the room that is best now to the top: others with the same value of the spread label
        cost more since one was taken. False: there is none."""
        while self._spread and best:
            stored, place = best[0]
            now = self.preference(fitting[place])
            if now == stored:
                break
            heappop(best)
            heappush(best, (now, place))
        return bool(best)

    def cost(self, room: Room) -> Cost:
        constraints, owner = self._first.constraints, self._first.owner
        held = sum(a.weight for a in constraints.affinities if holds(a.rule, room.labels))
        return Cost(
            replicas=0 if constraints.pack else room.owners[owner],
            spread=self._by_value[room.labels.get(self._spread)] if self._spread else 0,
            failures=room.failures[owner],
            affinity=held / 100,
            share=round(room.used_share(), 6),
        )

    def preference(self, room: Room) -> Preference:
        cost = self.cost(room)
        share = -cost.share if self._first.constraints.pack else cost.share
        return room.is_doubtful, cost.spread, cost.total, share, room.node.name


def refusal(demand: Demand, room: Room) -> str | None:
    """Why it cannot run there, in words that go on from the node's name."""
    return next((reason for check in _FILTERS if (reason := check(demand, room))), None)


def _why_nowhere(demand: Demand, rooms: Sequence[Room]) -> str:
    return explain(demand, rooms, Counter(refusal(demand, room) or "" for room in rooms))


def explain(demand: Demand, rooms: Sequence[Room], refusals: Mapping[str, int]) -> str:
    """One sentence: why the demand fits on no node."""
    if not rooms:
        return "the cluster has no nodes yet: join one with `orca-worker --join`"
    home = next((room for room in rooms if demand.home == room.node.id), None)
    if home is not None:
        return f"its volumes are on node {home.node.name}: {refusal(demand, home)}"
    pin = demand.constraints.node
    if pin:
        pinned = [room for room in rooms if pin in (room.node.id, room.node.name)]
        if not pinned:
            known = ", ".join(sorted(room.node.name for room in rooms))
            return f"no node is named {pin} (nodes: {known})"
        room = pinned[0]
        return f"node {room.node.name}: {refusal(demand, room)}"
    parts = [
        f"{count} node{'s' if count > 1 else ''}: {reason}"
        for reason, count in sorted(refusals.items(), key=lambda item: (-item[1], item[0]))
    ]
    return "no node fits (" + "; ".join(parts) + ")"


def _state(demand: Demand, room: Room) -> str | None:
    node = room.node
    if node.state is not NodeState.READY:
        return f"is {node.state}" if node.state is NodeState.DOWN else "has not connected yet"
    return None if node.schedulable else "is drained"


def _pin(demand: Demand, room: Room) -> str | None:
    pin = demand.constraints.node
    return None if not pin or pin in (room.node.id, room.node.name) else f"is not {pin}"


def _home(demand: Demand, room: Room) -> str | None:
    return None if demand.home in ("", room.node.id) else "does not have its volumes"


def _labels(demand: Demand, room: Room) -> str | None:
    for key, value in sorted(demand.constraints.labels.items()):
        if room.labels.get(key) != value:
            return f"lacks the label {key}={value}"
    return None


def _rules(demand: Demand, room: Room) -> str | None:
    broken = (rule for rule in demand.constraints.rules if not holds(rule, room.labels))
    return next((f"breaks the rule `{rule}`" for rule in broken), None)


def _distinct(demand: Demand, room: Room) -> str | None:
    taken = (demand.owner, demand.revision) in room.revisions
    is_taken = demand.constraints.distinct_hosts and taken
    return "runs a replica of it already" if is_taken else None


def _runtime(demand: Demand, room: Room) -> str | None:
    if demand.spec.runtime in room.node.facts.runtimes:
        return None
    if demand.spec.runtime == "docker":
        return "has no container engine"
    return f"has no runtime {demand.spec.runtime}"


def _devices(demand: Demand, room: Room) -> str | None:
    given = room.node.facts.devices
    wanted = demand.spec.container.devices
    if not wanted or given is None:  # then its worker says so, when it is to start there
        return None
    missing = [device.path for device in wanted if device.path not in given]
    return f"has no device {', '.join(missing)} to give" if missing else None


def _disk(demand: Demand, room: Room) -> str | None:
    return "has a full disk" if room.node.disk_full else None


def _memory(demand: Demand, room: Room) -> str | None:
    capacity = room.node.facts.memory_bytes
    short = room.memory_bytes + demand.memory_bytes - capacity
    if not capacity or not demand.memory_bytes or short <= 0:
        return None
    return f"lacks {-(-short // (1 << 20))} MiB of memory"


def _cpu(demand: Demand, room: Room) -> str | None:
    """Of limits only what no processor count of the node could give: time is shared, memory is not.
    What is set aside is not shared."""
    capacity = room.node.facts.cpu_millis
    if capacity and demand.spec.cpu_millis > capacity:
        asked = demand.spec.cpu_millis / 1000
        return f"has {capacity / 1000:g} processors, {asked:g} are asked for"
    short = room.reserved_cpu_millis + demand.constraints.cpu_millis - capacity
    if not capacity or not demand.constraints.cpu_millis or short <= 0:
        return None
    return f"lacks {short / 1000:g} processors to set aside"


def _host_port(demand: Demand, room: Room) -> str | None:
    taken = demand.spec.host_port in room.host_ports
    return f"port {demand.spec.host_port} is taken" if taken else None


_FILTERS: tuple[Callable[[Demand, Room], str | None], ...] = (
    _state,
    _pin,
    _home,
    _labels,
    _rules,
    _runtime,
    _devices,
    _disk,
    _distinct,
    _host_port,
    _memory,
    _cpu,
)
