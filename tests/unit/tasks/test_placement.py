"""Where a task goes, and why it goes nowhere."""

from hypothesis import given
from hypothesis import strategies as st

from builders import GIB, a_node, a_spec
from orca_master.cluster.model import NodeState
from orca_master.tasks.model import Constraints
from orca_master.tasks.placement import Demand, Room, place


def demand(
    task: str = "t1", *, node: str = "", labels: dict[str, str] | None = None, **spec
) -> Demand:
    return Demand(task, "owner", a_spec(**spec), Constraints(node=node, labels=labels or {}))


def where(demands: list[Demand], rooms: list[Room]) -> list[str]:
    return [placement.node or placement.reason for placement in place(demands, rooms)]


def test_replicas_spread_over_the_nodes() -> None:
    rooms = [Room(a_node(name)) for name in ("a", "b", "c")]
    assert where([demand(f"t{i}") for i in range(4)], rooms) == ["id-a", "id-b", "id-c", "id-a"]


def test_a_pin_is_exact() -> None:
    rooms = [Room(a_node("worker-1")), Room(a_node("worker-10"))]
    assert where([demand(node="worker-10")], rooms) == ["id-worker-10"]
    assert where([demand(node="id-worker-1")], rooms) == ["id-worker-1"]
    assert where([demand(node="worker")], rooms) == [
        "no node is named worker (nodes: worker-1, worker-10)"
    ]


def test_a_pinned_node_that_cannot_says_why() -> None:
    down = Room(a_node("a", state=NodeState.DOWN))
    assert where([demand(node="a")], [down, Room(a_node("b"))]) == ["node a: is down"]
    drained = Room(a_node("a", schedulable=False))
    assert where([demand(node="a")], [drained]) == ["node a: is drained"]


def test_labels_must_be_equal() -> None:
    rooms = [Room(a_node("a", labels={"disk": "hdd"})), Room(a_node("b", labels={"disk": "ssd"}))]
    assert where([demand(labels={"disk": "ssd"})], rooms) == ["id-b"]
    assert where([demand(labels={"zone": "x"})], rooms) == [
        "no node fits (2 nodes: lacks the label zone=x)"
    ]


def test_memory_is_taken_by_what_was_placed_before_in_the_same_pass() -> None:
    rooms = [Room(a_node("a", memory_bytes=GIB))]
    half = 512 << 20
    assert where([demand(f"t{i}", memory_bytes=half) for i in range(3)], rooms) == [
        "id-a",
        "id-a",
        "no node fits (1 node: lacks 512 MiB of memory)",
    ]


def test_processors_are_shared_but_none_has_more_than_it_has() -> None:
    rooms = [Room(a_node("a", cpu_millis=2000))]
    assert where([demand(f"t{i}", cpu_millis=1000) for i in range(5)], rooms) == ["id-a"] * 5
    assert where([demand(cpu_millis=3000)], rooms) == [
        "no node fits (1 node: has 2 processors, 3 are asked for)"
    ]


def test_the_less_used_node_is_preferred() -> None:
    rooms = [Room(a_node("a", cpu_millis=2000)), Room(a_node("b", cpu_millis=2000))]
    busy = Demand("busy", "other", a_spec(cpu_millis=1500), Constraints(node="a"))
    assert where([busy, demand()], rooms) == ["id-a", "id-b"]


def test_a_fixed_port_is_taken_once_on_a_node() -> None:
    rooms = [Room(a_node("a")), Room(a_node("b"))]
    placed = where([demand(f"t{i}", host_port=80) for i in range(3)], rooms)
    assert placed == ["id-a", "id-b", "no node fits (2 nodes: port 80 is taken)"]


def test_a_container_needs_an_engine() -> None:
    rooms = [Room(a_node("a", runtimes=("process",)))]
    assert where([demand()], rooms) == ["no node fits (1 node: has no container engine)"]


def test_reasons_are_counted() -> None:
    rooms = [
        Room(a_node("a", state=NodeState.DOWN)),
        Room(a_node("b", memory_bytes=GIB)),
        Room(a_node("c", memory_bytes=GIB)),
    ]
    assert where([demand(memory_bytes=2 * GIB)], rooms) == [
        "no node fits (2 nodes: lacks 1024 MiB of memory; 1 node: is down)"
    ]


def test_a_cluster_without_nodes_says_how_to_get_one() -> None:
    (reason,) = where([demand()], [])
    assert "orca-worker --join" in reason


sizes = st.lists(st.integers(1, 800), max_size=20)


@given(demands=sizes, capacities=st.lists(st.integers(100, 1000), max_size=5))
def test_no_node_is_ever_given_more_than_it_has(demands: list[int], capacities: list[int]) -> None:
    mib = 1 << 20
    rooms = [Room(a_node(f"n{i}", memory_bytes=size * mib)) for i, size in enumerate(capacities)]
    wanted = [demand(f"t{i}", memory_bytes=size * mib) for i, size in enumerate(demands)]
    given_to: dict[str, int] = {}
    for item, placement in zip(wanted, place(wanted, rooms), strict=True):
        assert bool(placement.node) != bool(placement.reason)
        if placement.node:
            given_to[placement.node] = given_to.get(placement.node, 0) + item.spec.memory_bytes
    for i, size in enumerate(capacities):
        assert given_to.get(f"id-n{i}", 0) <= size * mib


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([0, 1, 2]), st.sampled_from([0, 80])),
        max_size=25,
    ),
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
)
def test_placing_alike_demands_together_places_them_as_one_by_one(
    wanted: list[tuple[str, int, int]], capacities: list[int]
) -> None:
    demands = [
        Demand(str(n), owner, a_spec(memory_bytes=gib * GIB, host_port=port), Constraints())
        for n, (owner, gib, port) in enumerate(wanted)
    ]

    def the_rooms() -> list[Room]:
        return [Room(a_node(f"n{n}", memory_bytes=c * GIB)) for n, c in enumerate(capacities)]

    together, one_by_one = the_rooms(), the_rooms()
    assert place(demands, together) == [place([each], one_by_one)[0] for each in demands]
    assert together == one_by_one
