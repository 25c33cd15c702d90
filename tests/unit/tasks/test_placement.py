"""Where a task goes, and why it goes nowhere."""

from hypothesis import given
from hypothesis import strategies as st

from builders import GIB, a_node, a_spec
from orca_master.cluster.model import NodeState
from orca_master.tasks.constraints import Affinity, Constraints, parse_rule
from orca_master.tasks.model import Container, Device
from orca_master.tasks.placement import Demand, Room, place, verdicts


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


def placed(constraints: Constraints, rooms: list[Room], count: int, **spec) -> str:
    demands = [Demand(f"t{i}", "owner", a_spec(**spec), constraints) for i in range(count)]
    return " ".join(p.node.removeprefix("id-") or "-" for p in place(demands, rooms))


def zones(**by_name: str) -> list[Room]:
    return [Room(a_node(name, labels={"zone": zone})) for name, zone in by_name.items()]


def test_every_rule_must_hold_and_the_one_that_does_not_is_named() -> None:
    both = Constraints(rules=(parse_rule("zone = x"), parse_rule("node.name != a")))
    assert placed(both, zones(a="x", b="x", c="y"), 2) == "b b"
    (nowhere,) = place([Demand("t", "owner", a_spec(), both)], zones(a="x", c="y"))
    assert nowhere.reason == (
        "no node fits (1 node: breaks the rule `node.name != a`; 1 node: breaks the rule `zone = x`)"
    )


def test_replicas_spread_over_the_values_of_a_label() -> None:
    spread = Constraints(spread="zone")
    assert placed(spread, zones(a="x", b="x", c="x", d="y"), 4) == "a d b d"
    assert placed(Constraints(), zones(a="x", b="x", c="x", d="y"), 4) == "a b c d"


def test_never_two_of_a_revision_on_a_node() -> None:
    rooms = [Room(a_node("a")), Room(a_node("b"))]
    distinct = Constraints(distinct_hosts=True)
    assert placed(distinct, rooms, 3) == "a b -"
    newer = [Demand(f"n{i}", "owner", a_spec(), distinct, revision=2) for i in range(3)]
    assert where(newer, rooms) == [
        "id-a",
        "id-b",
        "no node fits (2 nodes: runs a replica of it already)",
    ]


def test_an_affinity_of_100_outweighs_one_replica() -> None:
    def near(weight: int) -> Constraints:
        return Constraints(affinities=(Affinity(parse_rule("zone = y"), weight),))

    assert placed(near(50), zones(a="x", b="y"), 3) == "b a b"
    assert placed(near(250), zones(a="x", b="y"), 4) == "b b b a"
    assert placed(near(-150), zones(a="x", b="y"), 3) == "a a b"


def test_packing_fills_the_fullest_node_that_fits() -> None:
    rooms = [Room(a_node(name, memory_bytes=GIB)) for name in ("a", "b")]
    rooms[1].memory_bytes = 256 << 20
    assert placed(Constraints(pack=True), rooms, 7, memory_bytes=256 << 20) == "b b b a a a a"


def test_what_is_set_aside_counts_instead_of_the_limit() -> None:
    rooms = [Room(a_node("a", memory_bytes=GIB, cpu_millis=1000))]
    half = Constraints(memory_bytes=256 << 20)
    assert placed(half, rooms, 5, memory_bytes=GIB) == "a a a a -"
    rooms = [Room(a_node("a", cpu_millis=1000))]
    third = Constraints(cpu_millis=400)
    assert placed(third, rooms, 3, cpu_millis=1000) == "a a -"
    (reason,) = where([Demand("t", "owner", a_spec(), third)], rooms)
    assert reason == "no node fits (1 node: lacks 0.2 processors to set aside)"


def test_a_node_where_it_failed_lately_comes_last() -> None:
    rooms = [Room(a_node("a")), Room(a_node("b"))]
    rooms[0].failures["owner"] = 2
    assert placed(Constraints(), rooms, 4) == "b b a b"


def test_a_node_that_is_not_heard_of_just_now_comes_last() -> None:
    rooms = [Room(a_node("a"), is_doubtful=True), Room(a_node("b"))]
    assert placed(Constraints(), rooms, 3) == "b b b"
    assert placed(Constraints(node="a"), rooms, 1) == "a", "where there is no other it waits there"


def test_a_replica_stays_where_its_volumes_are() -> None:
    rooms = [Room(a_node("a")), Room(a_node("b", state=NodeState.DOWN))]
    at_a, at_b = (Demand("t", "o", a_spec(), Constraints(), home=f"id-{x}") for x in "ab")
    gone = Demand("t", "o", a_spec(), Constraints(), home="removed")
    assert where([at_a, at_a], rooms) == ["id-a", "id-a"]
    assert where([at_b], rooms) == ["its volumes are on node b: is down"]
    assert where([gone], rooms) == [
        "no node fits (1 node: does not have its volumes; 1 node: is down)"
    ]


def test_every_node_is_explained_the_best_first() -> None:
    rooms = [*zones(a="x", b="y"), Room(a_node("c", state=NodeState.DOWN))]
    rooms[0].owners["owner"] = 2
    near = Constraints(affinities=(Affinity(parse_rule("zone = x"), 150),), spread="zone")
    seen = verdicts(Demand("", "owner", a_spec(), near), rooms)
    assert [(v.room.node.name, v.refusal, v.cost.total) for v in seen] == [
        ("b", None, 0.0),
        ("a", None, 0.5),
        ("c", "is down", 0.0),
    ]


@given(
    st.lists(st.sampled_from("xyz"), min_size=1, max_size=6),
    st.integers(1, 12),
    st.sampled_from(["", "zone"]),
    st.booleans(),
    st.integers(-200, 200),
)
def test_many_alike_go_where_each_alone_would_have_gone(
    labels: list[str], count: int, spread: str, pack: bool, weight: int
) -> None:
    affinity = Affinity(parse_rule("zone = y"), weight)
    constraints = Constraints(spread=spread, pack=pack, affinities=(affinity,))
    by_name = {f"n{i}": zone for i, zone in enumerate(labels)}
    one_by_one = zones(**by_name)
    expected = " ".join(placed(constraints, one_by_one, 1, memory_bytes=GIB) for _ in range(count))
    assert placed(constraints, zones(**by_name), count, memory_bytes=GIB) == expected


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


def test_devices_are_asked_of_nodes_that_have_them_to_give() -> None:
    wants = Container(devices=(Device("/dev/dri"), Device("/dev/snd/seq", "r")))
    nothing, half = Room(a_node("a", devices=())), Room(a_node("b", devices=("/dev/dri",)))
    both = Room(a_node("c", devices=("/dev/dri", "/dev/snd", "/dev/snd/seq")))
    asking = demand(container=wants)
    assert where([asking], [nothing, half, both]) == ["id-c"]
    assert where([asking], [nothing, half]) == [
        "no node fits (1 node: has no device /dev/dri, /dev/snd/seq to give;"
        " 1 node: has no device /dev/snd/seq to give)"
    ]
    pinned = demand(node="b", container=wants)
    assert where([pinned], [half, both]) == ["node b: has no device /dev/snd/seq to give"]
    assert where([demand()], [nothing]) == ["id-a"], "who asks for none"
    older = Room(a_node("d"))
    assert where([asking], [older]) == ["id-d"], "a worker that does not tell refuses by itself"
