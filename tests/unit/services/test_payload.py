"""The deploy payload: the document's own example, and everything that must be refused."""

import json
from typing import Any

import pydantic
import pytest

from orca_master.services.payload import DeployIn, ServiceIn

DOCUMENT = {
    "services": [
        {
            "name": "my-app",
            "project": "frontend",
            "image": "nginx:alpine",
            "replicas": 2,
            "port": 80,
            "domain": "app.example.com",
            "health": "/healthz",
            "env": {"KEY": "${secrets.KEY}"},
            "resources": {"memory": "512Mi", "cpu": 1.0},
            "internal": True,
            "placement": {"node": "worker-1"},
        }
    ]
}


def parse(**fields: Any) -> ServiceIn:
    given = {"name": "a", "image": "x"} | fields
    return ServiceIn.model_validate_json(json.dumps(given))


def test_the_documents_payload_is_read() -> None:
    (service,) = DeployIn.model_validate_json(json.dumps(DOCUMENT)).services
    spec = service.spec()
    assert (spec.memory_bytes, spec.cpu_millis) == (512 << 20, 1000)
    assert spec.constraints.node == "worker-1"
    assert service.secrets() == ["KEY"]


@pytest.mark.parametrize("name", ["a", "a-b", "x" * 63, "a1", "1a", "web-2"])
def test_good_names(name: str) -> None:
    assert parse(name=name).name == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "A", "a_b", "a..b", "a/b", "../x", "x" * 64, "ａ", "a\u200b", "con", ".", "..",
     "123", "0a1b2c3d-0000-0000-0000-000000000000", "a\n", "x" * 1_000_000],
)  # fmt: skip
def test_in_01_bad_names_are_refused(name: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        parse(name=name)


@pytest.mark.parametrize("replicas", [-1, 1.5, "5", True, None, 2**31, 10**9])
def test_in_13_bad_replica_counts_are_refused(replicas: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        parse(replicas=replicas)


def test_in_13_zero_replicas_are_fine() -> None:
    assert parse(replicas=0).replicas == 0


@pytest.mark.parametrize("cpu", [0, -1, "1.0", True])
def test_in_14_bad_processor_limits_are_refused(cpu: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        parse(resources={"cpu": cpu})


@pytest.mark.parametrize("raw", ["NaN", "1e400", "Infinity", "-Infinity"])
def test_in_14_numbers_that_are_none_are_refused(raw: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        ServiceIn.model_validate_json(f'{{"name":"a","image":"x","resources":{{"cpu":{raw}}}}}')


@pytest.mark.parametrize("memory", ["-1", "1e3Gi", "1Yi", "512MB ", "1", "", "Mi", 512, "٣Mi"])
def test_in_14_bad_memory_limits_are_refused(memory: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        parse(resources={"memory": memory})


@pytest.mark.parametrize(
    ("memory", "size"), [("512Mi", 512 << 20), ("1Gi", 1 << 30), ("8388608", 8 << 20)]
)
def test_memory_units(memory: str, size: int) -> None:
    assert parse(resources={"memory": memory}).spec().memory_bytes == size


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        ({"rules": ["disk ~ ssd"]}, "must be a rule such as"),
        ({"affinity": [{"rule": "disk = ssd", "weight": 1.5}]}, "integer"),
        ({"affinity": [{"rule": "disk"}]}, "must be a rule such as"),
        ({"spread": "not a label"}, "pattern"),
        ({"strategy": "random"}, "'spread' or 'binpack'"),
        ({"distinct_hosts": "yes"}, "boolean"),
    ],
)
def test_bad_placements_are_refused(placement: object, said: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=said):
        parse(placement=placement)


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": "64Mi", "reserve": {"memory": "65Mi"}},
        {"cpu": 0.5, "reserve": {"cpu": 0.6}},
    ],
)
def test_no_more_is_set_aside_than_the_limit(resources: object) -> None:
    with pytest.raises(pydantic.ValidationError, match="is more than the limit"):
        parse(resources=resources)


@pytest.mark.parametrize(
    "domain",
    ["a b.example.com", "a.com\r\nX: y", "*.*", "x" * 254, "1.2.3.4", "localhost", "A.com", "a..b"],
)
def test_in_05_bad_domains_are_refused(domain: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        parse(domain=domain)


@pytest.mark.parametrize("path", ["http://evil/", "//evil", "/a\r\nHost:b", "healthz", ""])
def test_in_06_bad_health_paths_are_refused(path: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        parse(health=path, port=80)


@pytest.mark.parametrize("key", ["", "A=B", "A B", "A\0", "K" * 10_000, "ORCA_X", "1A"])
def test_in_07_bad_environment_names_are_refused(key: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        parse(env={key: "v"})


def test_in_08_environment_values_are_literal() -> None:
    assert parse(env={"A": 'two\nlines "quoted"'}).env["A"] == 'two\nlines "quoted"'
    with pytest.raises(pydantic.ValidationError):
        parse(env={"A": "nul\0"})


def test_in_12_an_escaped_secret_is_no_secret() -> None:
    assert parse(env={"A": "$${secrets.X}"}).secrets() == []


@pytest.mark.parametrize("field", ["cap_add", "HostConfig", "bogus"])
def test_ce_02_unknown_fields_are_refused(field: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        parse(**{field: True})


def test_in_17_a_service_given_twice_is_refused() -> None:
    twice = {"services": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}]}
    with pytest.raises(pydantic.ValidationError, match="given twice"):
        DeployIn.model_validate_json(json.dumps(twice))


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        parse(name="A", replicas=-1, port=0, bogus=1)
    assert {error["loc"][0] for error in caught.value.errors()} == {
        "name",
        "replicas",
        "port",
        "bogus",
    }


def test_a_service_needs_something_to_run() -> None:
    with pytest.raises(pydantic.ValidationError, match="needs an image, or a command"):
        ServiceIn.model_validate_json('{"name": "a"}')


def test_health_needs_a_port() -> None:
    with pytest.raises(pydantic.ValidationError, match="need a port"):
        parse(health="/")
