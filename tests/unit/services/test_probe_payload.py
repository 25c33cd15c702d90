"""What a payload may say of probes, and what a node is then told."""

import json
from typing import Any

import msgspec
import pydantic
import pytest

from orca_master.services.model import ServiceSpec
from orca_master.services.operations import task_spec
from orca_master.services.payload import ServiceIn
from orca_master.tasks.model import Probe, TaskSpec
from orca_master.tasks.wire import assignments
from orca_proto import worker_pb2 as pb


def parse(**fields: Any) -> ServiceIn:
    given = {"name": "a", "image": "x"} | fields
    return ServiceIn.model_validate_json(json.dumps(given))


def told(**fields: Any) -> pb.TaskSpec:
    """What a worker is sent."""
    spec = task_spec(parse(**fields).spec())
    return assignments(pb.Revision(), [], {"h": spec}).assignments.specs["h"]


def test_health_is_readiness_and_liveness_over_http() -> None:
    spec = told(port=80, health="/healthz")
    assert spec.readiness == spec.liveness
    assert (spec.readiness.path, spec.readiness.port) == ("/healthz", 80)
    assert not spec.HasField("startup")


def test_what_is_given_takes_the_place_of_health() -> None:
    spec = told(port=80, health="/healthz", liveness={"tcp": True, "port": 81})
    assert spec.readiness.path == "/healthz"
    assert (spec.liveness.tcp, spec.liveness.path, spec.liveness.port) == (True, "", 81)


def test_nothing_given_asks_nothing() -> None:
    spec = told(port=80)
    assert not any(spec.HasField(name) for name in ("startup", "readiness", "liveness"))


def test_the_fields_that_manifests_had_before_are_understood() -> None:
    before = {
        "path": "/ready",
        "port": 80,
        "interval_secs": 5,
        "timeout_secs": 2,
        "failure_threshold": 4,
        "initial_delay_secs": 1,
    }
    found = told(port=80, readiness=before).readiness
    assert (found.interval_seconds, found.timeout_seconds, found.delay_seconds) == (5, 2, 1)
    assert found.failure_threshold == 4


def test_a_start_may_take_longer_than_an_outage() -> None:
    spec = told(port=80, startup={"path": "/"}, readiness={"path": "/"})
    assert (spec.startup.failure_threshold, spec.readiness.failure_threshold) == (30, 3)


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({}, "readiness needs one of path, tcp, command and grpc"),
        ({"path": "/", "tcp": True}, "readiness needs one of path, tcp, command and grpc"),
        ({"command": ["x"], "port": 1}, "port has no meaning with command"),
        ({"tcp": True, "service": "s"}, "service needs grpc"),
        ({"tcp": True, "headers": {"A": "b"}}, "headers need path"),
    ],
)
def test_what_does_not_fit_together_is_named(probe: dict[str, Any], words: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=words):
        parse(port=80, readiness=probe)


@pytest.mark.parametrize(
    "probe",
    [
        {"path": "//evil"},
        {"path": "/a\r\nX: y"},
        {"path": "/", "headers": {"A": "b\r\nX: y"}},
        {"path": "/", "headers": {"A b": "c"}},
        {"path": "/", "interval_seconds": 0},
        {"path": "/", "interval_seconds": 5, "interval_secs": 5},
        {"path": "/", "timeout_seconds": -1},
        {"path": "/", "failure_threshold": 0},
        {"path": "/", "bogus": 1},
        {"command": []},
        {"command": ["a\0b"]},
        {"tcp": True, "port": 0},
        {"tcp": "yes"},
    ],
)
def test_what_cannot_be_is_refused(probe: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        parse(port=80, readiness=probe)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(pydantic.ValidationError) as refused:
        parse(
            startup={"tcp": True, "success_threshold": 2},
            readiness={"service": "s"},
            liveness={"path": "/", "grpc": True},
            user="root",
            security="restricted",
        )
    said = str(refused.value)
    for words in (
        "startup needs a port, its own or the service's",
        "startup: success_threshold is for readiness",
        "readiness needs one of",
        "readiness: service needs grpc",
        "liveness needs one of",
        "security restricted and user root",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("fields", "has_check"),
    [
        ({}, False),
        ({"health": "/"}, True),
        ({"readiness": Probe(tcp=True)}, True),
        ({"startup": Probe(tcp=True)}, True),
        ({"liveness": Probe(tcp=True)}, False),
    ],
)
def test_what_tells_when_a_replica_is_ready(fields: dict[str, Any], has_check: bool) -> None:
    assert ServiceSpec(image="x", port=80, **fields).has_check is has_check


def test_a_spec_that_was_stored_before_keeps_its_check() -> None:
    before = {"runtime": "docker", "image": "x", "health": {"path": "/z", "interval_seconds": 4.0}}
    found = msgspec.convert(before, TaskSpec)
    assert found.readiness == Probe(path="/z", interval_seconds=4.0)
    assert msgspec.to_builtins(found)["health"] == before["health"]
