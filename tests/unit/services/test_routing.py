"""How requests reach a service: what may be asked for, whose a domain is, who gets which share."""

import json
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_service, a_task
from orca_master.app.schema import SCHEMA
from orca_master.services.model import SERVICES, Policy
from orca_master.services.payload import ServiceIn
from orca_master.services.rollouts.model import Deployment, DeploymentState
from orca_master.services.routing.claims import Claims, claims
from orca_master.services.routing.model import LEAVING_SECONDS, Match, Routing
from orca_master.services.routing.payload import path_of
from orca_master.services.routing.sharing import canary_revision, takes_requests, weights
from orca_master.services.strategy import Canary, Rollout, Step, Strategy
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import Task, TaskState, Wanted


def parse(**fields: Any) -> ServiceIn:
    given = {"name": "web", "image": "app:1", "port": 80, "domain": "app.example.com"} | fields
    return ServiceIn.model_validate_json(json.dumps(given))


def test_a_domain_alone_is_all_of_it() -> None:
    service = parse()
    assert service.routing() == Routing(domains=("app.example.com",))
    spec = service.spec()
    assert spec.published
    assert spec.stop_delay_seconds == LEAVING_SECONDS
    assert parse(stop_delay_seconds=0).spec().stop_delay_seconds == 0
    without = parse(domain=None)
    assert without.routing() == Routing()
    assert not without.spec().published
    assert without.spec().stop_delay_seconds == 0


def test_everything_that_can_be_said_of_routing() -> None:
    routing = parse(
        domain=None,
        domains=["a.example.com", "*.example.com"],
        routes=["/api/*", "/"],
        ingress={
            "strip_prefix": True,
            "protocol": "http2",
            "idle_timeout": "5m",
            "timeout": 30,
            "max_body": "10Mi",
            "rate_limit": {"requests_per_second": 100},
            "sticky": {"cookie": "stay"},
            "security_headers": False,
            "hsts": True,
            "https_redirect": False,
        },
    ).routing()
    assert routing.domains == ("a.example.com", "*.example.com")
    assert routing.paths == ("/api", "/")
    assert routing.sticky == Match("stay", cookie=True)
    limits = routing.limits
    assert (limits.idle_seconds, limits.timeout_seconds) == (300.0, 30.0)
    assert (limits.most_body_bytes, limits.requests_per_second, limits.burst) == (
        10 << 20,
        100,
        100,
    )
    assert (routing.strip, routing.http2, routing.hsts) == (True, True, True)
    assert (routing.security_headers, routing.redirect) == (False, False)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"port": None}, "a domain needs a port"),
        ({"domains": ["b.example.com"]}, "give domain or domains, not both"),
        ({"domain": None, "domains": ["a.example.com"] * 2}, "a domain is given twice"),
        ({"domain": None, "routes": ["/a"]}, "routes and ingress need a domain"),
        ({"domain": None, "ingress": {"hsts": True}}, "routes and ingress need a domain"),
        ({"routes": ["/a", "/a/*"]}, "a route is given twice"),
        ({"routes": []}, "at least 1 item"),
        ({"routes": ["a"]}, "must be a path such as /api"),
        ({"routes": ["/a?b"]}, "must be a path"),
        ({"routes": ["/a//b"]}, "must be a path"),
        ({"routes": ["/a/../b"]}, "must be a path"),
        ({"routes": ["/a%2fb"]}, "must be a path"),
        ({"ingress": {"protocol": "h3"}}, "pattern"),
        ({"ingress": {"max_body": "0"}}, "at least a byte"),
        ({"ingress": {"max_body": "5Gi"}}, "below 4Gi"),
        ({"ingress": {"sticky": {}}}, "give header or cookie"),
        ({"ingress": {"sticky": {"header": "a", "cookie": "b"}}}, "give header or cookie"),
        ({"ingress": {"sticky": {"header": "a b"}}}, "pattern"),
        ({"ingress": {"rate_limit": {"requests_per_second": 0}}}, "greater than or equal to 1"),
        ({"deploy": {"strategy": "canary", "canary": {"match": {}}}}, "give header or cookie"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_reason(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=said):
        parse(**fields)


def test_paths_are_whole_segments() -> None:
    assert [path_of(p) for p in ("/", "/*", "/a", "/a/", "/a/*", "/a/b")] == [
        "/", "/", "/a", "/a", "/a", "/a/b",
    ]  # fmt: skip


def test_a_domain_belongs_to_one_project_and_a_path_to_one_service() -> None:
    taken = Claims()
    taken.take("shop", "web", Routing(domains=("shop.example.com",)))
    own, api = Routing(domains=("shop.example.com",)), Routing(("shop.example.com",), ("/api",))
    assert taken.against("shop", "web", own) == []
    assert taken.against("shop", "api", api) == []
    (said,) = taken.against("shop", "api", own)
    assert said == "shop.example.com/ belongs to service web already: give other routes"
    (said,) = taken.against("blog", "api", api)
    assert said == "domain shop.example.com belongs to project shop: remove it there first"


def test_who_is_being_removed_claims_nothing() -> None:
    policy = Policy(routing=Routing(domains=("a.example.com",)))
    for purge, expected in ((False, {"a.example.com": "default"}), (True, {})):
        tx = Transaction(State(SCHEMA))
        tx.put(SERVICES, a_service(policy=policy, purge=purge, stopped=purge))
        assert claims(tx, "default").projects == expected
        assert claims(tx, "other").projects == {}
        assert claims(tx, "default", but=[("default", "web")]).projects == {}


def replicas(revision: int, count: int) -> list[Task]:
    return [
        a_task(slot, id=f"r{revision}-{slot}", revision=revision, host_port=30000 + slot)
        for slot in range(1, count + 1)
    ]


def going(strategy: Strategy = Strategy.CANARY, **fields: Any) -> Deployment:
    values: dict[str, Any] = {"holding": True, "stage_at": 5.0} | fields
    return Deployment("default", "default", "web", 2, 2, 1, 1.0, strategy=strategy, **values)


ROLLOUT = Rollout()


def percent_of(tasks: list[Task], found: Any, revision: int) -> float:
    counts = [found.get(task.revision, 0) for task in tasks]
    own = [n for n, task in zip(counts, tasks, strict=True) if task.revision == revision]
    return 100 * sum(own) / sum(counts)


@given(old=st.integers(1, 60), new=st.integers(1, 60), weight=st.integers(0, 100))
def test_a_canarys_share_is_exact_whatever_the_numbers(old: int, new: int, weight: int) -> None:
    tasks = replicas(1, old) + replicas(2, new)
    rollout = Rollout(strategy=Strategy.CANARY, canary=Canary(steps=(Step(weight),)))
    found = weights(tasks, 2, going(), rollout)
    assert percent_of(tasks, found, 2) == weight
    assert all(each >= 1 for each in found.values())


ROLLOUT = Rollout(canary=Canary(weight=20))


@pytest.mark.parametrize(
    ("deployment", "percent"),
    [
        (None, 100),  # what is left of others is going
        (going(Strategy.ROLLING, holding=False), 100 / 3),
        (going(), 20),
        (going(stage_at=0.0), 0),  # not ready to be tried yet
        (going(Strategy.BLUE_GREEN), 0),
        (going(Strategy.BLUE_GREEN, holding=False), 100),
        (going(holding=False), 100 / 3),  # promoted: all that are ready alike
        (going(holding=False, state=DeploymentState.REVERTING), 0),
        (going(Strategy.BLUE_GREEN, holding=False, state=DeploymentState.REVERTING), 0),
    ],
)
def test_how_much_the_new_revision_gets(deployment: Deployment | None, percent: float) -> None:
    tasks = replicas(1, 4) + replicas(2, 2)
    found = weights(tasks, 2, deployment, Rollout(canary=Canary(weight=20)))
    assert percent_of(tasks, found, 2) == pytest.approx(percent)


def test_whoever_is_ready_serves_when_those_that_should_are_not() -> None:
    old, new = replicas(1, 2), replicas(2, 2)
    assert set(weights(new, 2, going(stage_at=0.0), ROLLOUT)) == {2}
    assert set(weights(new, 2, going(Strategy.BLUE_GREEN), ROLLOUT)) == {2}
    assert set(weights(old, 2, going(Strategy.BLUE_GREEN, holding=False), ROLLOUT)) == {1}
    assert set(weights(old, 2, None, ROLLOUT)) == {1}
    assert weights([], 2, None, ROLLOUT) == {}


def test_only_what_is_ready_and_stays_takes_requests() -> None:
    good = a_task(host_port=30001)
    assert takes_requests(good, ())
    assert not takes_requests(good, {"id-n1"})
    assert not takes_requests(a_task(), ())  # no port
    assert not takes_requests(a_task(host_port=1, healthy=False), ())
    assert not takes_requests(a_task(host_port=1, wanted=Wanted.STOP), ())
    assert not takes_requests(a_task(1, TaskState.STOPPING, host_port=1, healthy=True), ())


def test_testers_have_a_canary_only_while_it_is_held() -> None:
    assert canary_revision(going()) == 2
    assert canary_revision(None) == 0
    assert canary_revision(going(holding=False)) == 0
    assert canary_revision(going(Strategy.BLUE_GREEN)) == 0
