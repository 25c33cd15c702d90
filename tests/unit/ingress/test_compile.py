"""From the state to what nodes serve, and the same in words: they agree."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from builders import a_node, a_service, a_task
from orca_master.app.schema import SCHEMA
from orca_master.cluster.model import NODES, Node, NodeState
from orca_master.ingress.compile import CANARY, compile_tables
from orca_master.ingress.explain import explain, routes
from orca_master.ingress.model import SERVINGS, Serving
from orca_master.ingress.serving import serving_nodes
from orca_master.services.model import SERVICES, Policy, Service, owner_of
from orca_master.services.rollouts.model import DEPLOYMENTS, Deployment
from orca_master.services.routing.model import Match, Routing
from orca_master.services.strategy import Canary, Rollout, Strategy
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import TASKS, Task
from orca_proto import worker_pb2 as pb


def routed(name: str = "web", *paths: str, **fields: Any) -> Service:
    domains = fields.pop("domains", ("app.example.com",))
    routing = Routing(domains=domains, paths=paths or ("/",), strip=fields.pop("strip", False))
    policy = Policy(routing=routing, rollout=fields.pop("rollout", Rollout()))
    return a_service(name=name, policy=policy, **fields)


def replica(slot: int, name: str = "web", **fields: Any) -> Task:
    owner = owner_of("default", "default", name)
    values = {"id": f"{name}-{slot}", "owner": owner, "host_port": 30000 + slot} | fields
    return a_task(slot, **values)


def a_state(services: list[Service], tasks: list[Task], *nodes: Node) -> State:
    tx = Transaction(State(SCHEMA))
    for node in nodes or (a_node(), a_node("n2", address="10.0.0.2")):
        tx.put(NODES, node)
        tx.put(SERVINGS, Serving(node.id, "serving", http_port=80, https_port=443))
    for service in services:
        tx.put(SERVICES, service)
    for task in tasks:
        tx.put(TASKS, task)
    return tx.state


def pool(state: State, name: str = "default/default/web") -> list[tuple[str, int, int]]:
    raw = compile_tables(state).pools[name]
    return [(b.address, b.port, b.weight) for b in pb.Pool.FromString(raw).backends]


def site(state: State, host: str = "app.example.com") -> list[tuple[str, str]]:
    found = pb.Site.FromString(compile_tables(state).sites[host])
    return [(route.path, route.pool) for route in found.routes]


def test_a_service_with_a_domain_is_a_site_and_a_pool() -> None:
    tasks = [replica(1), replica(2, node="id-n2"), replica(3, healthy=False)]
    state = a_state([routed(), a_service(name="hidden")], tasks)
    assert site(state) == [("/", "default/default/web")]
    assert pool(state) == [("10.0.0.1", 30001, 1), ("10.0.0.2", 30002, 1)]
    assert set(compile_tables(state).pools) == {"default/default/web"}


def test_replicas_on_lost_nodes_get_nothing_and_an_empty_pool_stays() -> None:
    lost = a_node(state=NodeState.DOWN)
    state = a_state([routed()], [replica(1)], lost)
    assert pool(state) == []
    assert site(state) == [("/", "default/default/web")]


def test_of_several_services_under_a_domain_the_longest_path_comes_first() -> None:
    services = [routed("web"), routed("api", "/api"), routed("admin", "/api/admin", "/adm")]
    state = a_state(services, [])
    assert [path for path, _ in site(state)] == ["/api/admin", "/adm", "/api", "/"]


def canary(**fields: Any) -> list[Any]:
    rollout = Rollout(strategy=Strategy.CANARY, canary=Canary(weight=20, **fields))
    service = routed(rollout=rollout, revision=2, deployment=7)
    deployment = Deployment(
        "default", "default", "web", 7, 2, 1, 1.0,
        strategy=Strategy.CANARY, holding=True, stage_at=2.0,
    )  # fmt: skip
    tasks = [replica(slot) for slot in (1, 2, 3)]
    tasks.append(replica(1, id="web-new", revision=2, host_port=31001))
    return [service, deployment, tasks]


def held(service: Service, deployment: Deployment, tasks: list[Task]) -> State:
    tx = Transaction(a_state([service], tasks))
    tx.put(DEPLOYMENTS, deployment)
    return tx.state


def test_a_canary_shares_the_pool_by_weight() -> None:
    state = held(*canary())
    weights = [weight for _, _, weight in pool(state)]
    assert sorted(weights) == [3, 4, 4, 4]  # 20 % and 80 %
    (shown,) = routes(state, "default", None).routes
    assert [(s.revision, s.percent, s.replicas) for s in shown.shares] == [(1, 80, 3), (2, 20, 1)]


def test_testers_are_sent_to_the_canary_alone() -> None:
    state = held(*canary(match=Match("x-canary", "yes")))
    assert site(state) == [
        ("/", "default/default/web" + CANARY),
        ("/", "default/default/web"),
    ]
    assert pool(state, "default/default/web" + CANARY) == [("10.0.0.1", 31001, 1)]
    told = explain(state, "default", None, "http://app.example.com/")
    assert told.match == "header x-canary: yes"


def test_equal_states_give_equal_bytes_whatever_the_order() -> None:
    services, tasks = [routed("a"), routed("b", "/b")], [replica(1, "a"), replica(2, "a")]
    one = compile_tables(a_state(services, tasks))
    other = compile_tables(a_state(services[::-1], tasks[::-1]))
    assert one == other


def test_the_label_chooses_the_nodes_that_serve() -> None:
    plain, chosen = a_node("a"), a_node("b", labels={"ingress": "true"})
    refused = a_node("c", labels={"ingress": "false"})
    assert [n.name for n in serving_nodes(a_state([], [], plain, refused))] == ["a", "c"]
    assert [n.name for n in serving_nodes(a_state([], [], plain, chosen, refused))] == ["b"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://other.example.com/", "404: no service has the domain other.example.com"),
        ("http://app.example.com/x", "404: no service of app.example.com has a route for /x"),
        ("http://app.example.com/api", "503: no replica of service api is ready"),
        ("http://app.example.com/off/x", "503: service off is stopped"),
    ],
)
def test_a_refusal_is_explained(url: str, reason: str) -> None:
    state = a_state([routed("api", "/api"), routed("off", "/off", stopped=True)], [])
    told = explain(state, "default", None, url)
    assert str(told.reason).startswith(reason)


@pytest.mark.parametrize("url", ["ftp://a.example.com", "nothing", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be a URL such as"):
        explain(a_state([], []), "default", None, url)


def test_an_explanation_shows_the_way() -> None:
    state = a_state([routed("web", "/api", strip=True)], [replica(1), replica(2)])
    told = explain(state, "default", None, "https://app.example.com/api/v1?x=1")
    assert (told.domain, told.path, told.service) == ("app.example.com", "/api", "web")
    assert told.rewritten == "/v1"
    assert [(b.replica, b.address, b.percent) for b in told.backends] == [
        (1, "10.0.0.1:30001", 50.0),
        (2, "10.0.0.1:30002", 50.0),
    ]
    assert told.entrances == ["https://10.0.0.1:443", "https://10.0.0.2:443"]
    assert told.reason is None


def test_another_project_learns_nothing_but_that_the_domain_is_taken() -> None:
    state = a_state([routed()], [replica(1)])
    told = explain(state, "default", "blog", "http://app.example.com/")
    assert (told.service, told.backends) == (None, [])
    assert told.reason == "404: app.example.com belongs to another project"
    assert routes(state, "default", "blog").routes == []


def test_nodes_that_cannot_serve_say_why() -> None:
    tx = Transaction(a_state([routed()], [replica(1)], a_node()))
    tx.put(SERVINGS, Serving("id-n1", "failed", "port 80 is taken", 80, 443))
    (node,) = routes(tx.state, "default", None).nodes
    assert (node.node, node.state, node.reason) == ("n1", "failed", "port 80 is taken")
    told = explain(tx.state, "default", None, "http://app.example.com/")
    assert told.reason == "no node serves requests: see `orca routes`"
    tx.put(NODES, replace(a_node(), state=NodeState.DOWN))
    (node,) = routes(tx.state, "default", None).nodes
    assert (node.state, node.reason) == ("unknown", "the node is down")


LABELS = st.sampled_from(["a", "b", "c"])
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(lambda x: ".".join([*x, "example", "com"]))
DOMAINS = st.one_of(HOSTS, HOSTS.map(lambda host: "*." + host))
PATHS = st.lists(LABELS, max_size=3).map(lambda x: "/" + "/".join(x))


@given(
    services=st.lists(st.tuples(DOMAINS, PATHS), min_size=1, max_size=6, unique=True),
    host=HOSTS,
    path=PATHS,
)
def test_what_is_explained_is_what_the_tables_say(
    services: list[tuple[str, str]], host: str, path: str
) -> None:
    rows = [routed(f"s{n}", p, domains=(d,)) for n, (d, p) in enumerate(services)]
    state = a_state(rows, [replica(1, row.name) for row in rows], a_node())
    told = explain(state, "default", None, f"http://{host}{path}")
    assert told.service == _served(compile_tables(state).sites, host, path)


def _served(sites: dict[str, bytes], host: str, path: str) -> str | None:
    """As Envoy does it: the exact name, else the longest wildcard; then the first route that fits."""
    wild = [d for d in sites if d.startswith("*.") and host.endswith(d[1:])]
    chosen = host if host in sites else max(wild, key=len, default=None)
    if chosen is None:
        return None
    for route in pb.Site.FromString(sites[chosen]).routes:
        if route.path == "/" or path == route.path or path.startswith(route.path + "/"):
            return route.pool.rpartition("/")[2]
    return None
