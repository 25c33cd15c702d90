"""Which node a task goes to. Pure and deterministic: same input, same answer, with the reason.

Filters say where a task can run; every refusal is counted by its reason, so that a task that fits
nowhere can say why. A memory limit is reserved; a processor limit is not, because processors can be
shared: it only weighs in the choice (docs/adr/0006-limits-and-reservations.md). Among the fitting
nodes the one with the fewest replicas of the same owner wins, then the one with the largest free
share, then the name.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from itertools import groupby

from orca_master.cluster.model import Node, NodeState
from orca_master.tasks.model import Constraints, TaskSpec


@dataclass(frozen=True, slots=True)
class Demand:
    """A task to place."""

    task: str
    owner: str
    spec: TaskSpec
    constraints: Constraints


@dataclass(slots=True)
class Room:
    """A node and what is left of it while a plan is being made. Capacity 0 is unknown: no limit."""

    node: Node
    memory_bytes: int = 0
    cpu_millis: int = 0
    host_ports: set[int] = field(default_factory=set)
    owners: Counter[str] = field(default_factory=Counter)

    def take(self, owner: str, spec: TaskSpec) -> None:
        self.memory_bytes += spec.memory_bytes
        self.cpu_millis += spec.cpu_millis
        self.owners[owner] += 1
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


def place(demands: Iterable[Demand], rooms: Sequence[Room]) -> list[Placement]:
    """Place each demand in order; each takes its room before the next is looked at."""
    return [
        placement
        for _, alike in groupby(demands, key=lambda d: (d.owner, d.spec, d.constraints))
        for placement in _place_alike(list(alike), rooms)
    ]


def _place_alike(demands: Sequence[Demand], rooms: Sequence[Room]) -> Iterator[Placement]:
    """Demands that differ in nothing: every room is looked at once, then only the one just taken."""
    first = demands[0]
    fitting = [room for room in rooms if _refusal(first, room) is None]
    best = [(_preference(first, room), place) for place, room in enumerate(fitting)]
    heapify(best)
    reason = ""
    for demand in demands:
        if not best:
            reason = reason or _why_nowhere(demand, rooms)
            yield Placement(demand.task, "", reason)
            continue
        place = best[0][1]
        room = fitting[place]
        room.take(demand.owner, demand.spec)
        yield Placement(demand.task, room.node.id, "")
        if _refusal(demand, room) is None:
            heapreplace(best, (_preference(demand, room), place))
        else:
            heappop(best)


def _preference(demand: Demand, room: Room) -> tuple[int, float, str]:
    return room.owners[demand.owner], round(room.used_share(), 6), room.node.name


def _refusal(demand: Demand, room: Room) -> str | None:
    return next((reason for check in _FILTERS if (reason := check(demand, room))), None)


def _why_nowhere(demand: Demand, rooms: Sequence[Room]) -> str:
    refusals = Counter(_refusal(demand, room) or "" for room in rooms)
    return explain(demand, rooms, refusals)


def explain(demand: Demand, rooms: Sequence[Room], refusals: Counter[str]) -> str:
    """One sentence: why the demand fits on no node."""
    if not rooms:
        return "the cluster has no nodes yet: join one with `orca-worker --join`"
    pin = demand.constraints.node
    if pin:
        pinned = [room for room in rooms if pin in (room.node.id, room.node.name)]
        if not pinned:
            known = ", ".join(sorted(room.node.name for room in rooms))
            return f"no node is named {pin} (nodes: {known})"
        room = pinned[0]
        return f"node {room.node.name}: {_refusal(demand, room)}"
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


def _labels(demand: Demand, room: Room) -> str | None:
    for key, value in sorted(demand.constraints.labels.items()):
        if room.node.facts.labels.get(key) != value:
            return f"lacks the label {key}={value}"
    return None


def _runtime(demand: Demand, room: Room) -> str | None:
    if demand.spec.runtime in room.node.facts.runtimes:
        return None
    if demand.spec.runtime == "docker":
        return "has no container engine"
    return f"has no runtime {demand.spec.runtime}"


def _memory(demand: Demand, room: Room) -> str | None:
    capacity = room.node.facts.memory_bytes
    short = room.memory_bytes + demand.spec.memory_bytes - capacity
    if not capacity or not demand.spec.memory_bytes or short <= 0:
        return None
    return f"lacks {-(-short // (1 << 20))} MiB of memory"


def _cpu(demand: Demand, room: Room) -> str | None:
    """Only what no processor count of the node could give: time is shared, memory is not."""
    capacity = room.node.facts.cpu_millis
    if not capacity or demand.spec.cpu_millis <= capacity:
        return None
    return f"has {capacity / 1000:g} processors, {demand.spec.cpu_millis / 1000:g} are asked for"


def _host_port(demand: Demand, room: Room) -> str | None:
    taken = demand.spec.host_port in room.host_ports
    return f"port {demand.spec.host_port} is taken" if taken else None


_FILTERS: tuple[Callable[[Demand, Room], str | None], ...] = (
    _state,
    _pin,
    _labels,
    _runtime,
    _host_port,
    _memory,
    _cpu,
)
