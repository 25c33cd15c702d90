"""Names, values and injection: FAULTS group IN, as far as what they are about is there."""

import json
from typing import Any

import pytest

from inprocess import InProcess
from orca_master.services.model import SERVICES


async def refusal(cluster: InProcess, **fields: Any) -> list[dict[str, str]]:
    """The problems of a deploy of this service; nothing of it is kept."""
    answer = await cluster.deploy({"name": "web"} | fields, wait="false")
    assert answer.status == 400, answer.text
    assert cluster.core.store.state.count(SERVICES) == 0
    problems: list[dict[str, str]] = answer.json["problems"]
    return problems


async def accepted(cluster: InProcess, **fields: Any) -> None:
    answer = await cluster.deploy({"name": "web"} | fields, wait="false")
    assert answer.status == 202, answer.text


@pytest.mark.parametrize(
    "name",
    [
        *("", "-a", "a-", "A", "a_b", "a..b", "a/b", "../x", "a" * 64, "ａ", "a\u200b", "con"),
        *(".", "..", "a b", "a\n", "123"),
    ],
)
async def test_names_that_are_none_in_01(cluster: InProcess, name: str) -> None:
    (problem,) = await refusal(cluster, name=name)
    assert problem["field"] == "services.0.name"
    (problem,) = await refusal(cluster, project=name)
    assert problem["field"] == "services.0.project"


@pytest.mark.parametrize("name", ["a", "a" * 63, "a-1", "0a"])
async def test_names_that_are_some_in_01(cluster: InProcess, name: str) -> None:
    await accepted(cluster, name=name)


async def test_a_name_of_a_megabyte_is_not_echoed_in_02(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "a" * 900_000}, wait="false")
    assert answer.status == 400
    assert len(answer.text) < 1000


@pytest.mark.parametrize(
    "domain",
    ["a b.com", "a.com\r\nX: y", "*.*", "a." * 126 + "com", "10.0.0.1", "localhost", "A.com", ""],
)
async def test_domains_that_are_none_in_05(cluster: InProcess, domain: str) -> None:
    (problem,) = await refusal(cluster, domain=domain)
    assert problem["field"] == "services.0.domain"


@pytest.mark.parametrize(
    "path", ["http://evil/", "//evil", "/a\r\nHost: b", "health", "", "/a b", "/\u2028"]
)
async def test_health_paths_that_are_none_in_06(cluster: InProcess, path: str) -> None:
    (problem,) = await refusal(cluster, health=path, port=80)
    assert problem["field"] == "services.0.health"


@pytest.mark.parametrize(
    "key", ["", "A=B", "A B", "A\0", "A" * 10_240, "ORCA_TOKEN", "1A", "A-B", "Ä"]
)
async def test_names_of_variables_that_are_none_in_07(cluster: InProcess, key: str) -> None:
    (problem,) = await refusal(cluster, env={key: "x"})
    assert problem["field"] == "services.0.env"
    assert len(problem["message"]) < 300


async def test_values_of_variables_are_literal_in_08(cluster: InProcess) -> None:
    await refusal(cluster, env={"A": "x\0y"})
    value = "line 1\nline 2 \"quoted\" 'too' `$(id)` {0.__class__} %s%n {{7*7}}"
    await accepted(cluster, env={"A": value})
    (service,) = cluster.core.store.state.scan(SERVICES)
    assert service.spec.env == {"A": value}


@pytest.mark.parametrize("replicas", [-1, 1.5, "5", True, None, 1 << 31, 1_000_000_000])
async def test_numbers_of_replicas_that_are_none_in_13(cluster: InProcess, replicas: Any) -> None:
    (problem,) = await refusal(cluster, replicas=replicas)
    assert problem["field"] == "services.0.replicas"


async def test_no_replicas_is_a_number_in_13(cluster: InProcess) -> None:
    await accepted(cluster, replicas=0)


@pytest.mark.parametrize(
    "resources",
    [
        {"cpu": 0},
        {"cpu": -1},
        {"cpu": "1.0"},
        {"cpu": 1e9},
        {"memory": "-1"},
        {"memory": "1e3Gi"},
        {"memory": "1Yi"},
        {"memory": "512MB "},
        {"memory": "1"},
        {"memory": 1},
        {"gpu": 1},
    ],
)
async def test_limits_that_are_none_in_14(cluster: InProcess, resources: Any) -> None:
    (problem,) = await refusal(cluster, resources=resources)
    assert problem["field"].startswith("services.0.resources.")


async def test_what_cannot_be_placed_says_why_in_16(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "web", "placement": {"node": "nowhere"}})
    assert answer.json["errors"] == ["web: no node is named nowhere (nodes: node-1)"]


async def test_a_service_twice_and_too_many_in_17(cluster: InProcess) -> None:
    twice = await cluster.deploy({"name": "a"}, {"name": "a"}, wait="false")
    assert twice.status == 400
    assert "is given twice" in twice.json["error"]
    many = [{"name": f"s{n}"} for n in range(501)]
    assert (await cluster.deploy(*many, wait="false")).status == 400


@pytest.mark.parametrize("value", ["a\r\nb", "a\x1b[31mb", "a\u2028b", '"}{"x":"'])
async def test_names_in_the_trail_cannot_break_a_line_in_18(cluster: InProcess, value: str) -> None:
    assert (await cluster.deploy({"name": "web", "image": value}, wait="false")).status in (
        202,
        400,
    )
    answer = await cluster.call("GET", "/api/v1/audit")
    assert json.loads(answer.text) == answer.json
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize("tail", ["-1", "abc", "1000000000000", "1.5", ""])
async def test_numbers_of_lines_that_are_none_in_20(cluster: InProcess, tail: str) -> None:
    await cluster.deploy({"name": "web"})
    answer = await cluster.call("GET", "/api/v1/services/web/logs", params={"tail": tail})
    assert (answer.status, answer.json["problems"][0]["field"]) == (400, "query.tail")


@pytest.mark.parametrize("name", ["a'; drop table events; --", 'x" or 1=1', "%"])
async def test_sql_is_text_in_22(cluster: InProcess, name: str) -> None:
    await cluster.deploy({"name": "web"})
    answer = await cluster.call("GET", "/api/v1/audit", params={"resource": name})
    assert (answer.status, answer.json["events"]) == (200, [])
    assert len((await cluster.call("GET", "/api/v1/audit")).json["events"]) == 1


@pytest.mark.parametrize(
    "value", ["{0.__class__}", "%s%n", "{{7*7}}", "${7*7}", "$(id)", "`id`", "\\x1b[31m"]
)
async def test_templates_are_literal_in_23(cluster: InProcess, value: str) -> None:
    await accepted(cluster, command=["echo", value], env={"A": value})
    (service,) = cluster.core.store.state.scan(SERVICES)
    assert (service.spec.command[1], service.spec.env["A"]) == (value, value)


@pytest.mark.parametrize("name", ["wеb", "ｗeb", "web\u200d", "wéb", "ᴡeb"])
async def test_names_that_only_look_like_another_are_none_in_28(
    cluster: InProcess, name: str
) -> None:
    await accepted(cluster)
    answer = await cluster.deploy({"name": name}, wait="false")
    assert answer.status == 400
    assert answer.json["problems"][0]["field"] == "services.0.name"


@pytest.mark.parametrize(
    "field",
    ["tenant_id", "tenant", "owner", "roles", "is_admin", "status", "approved", "created_at"],
)
async def test_fields_that_are_not_the_callers_az_07(cluster: InProcess, field: str) -> None:
    for path, body in (
        ("/api/v1/deploy", {"services": [{"name": "web", "image": "app:1", field: "x"}]}),
        ("/api/v1/deploy", {"services": [{"name": "web", "image": "app:1"}], field: "x"}),
        ("/api/v1/tokens", {"name": "t", "role": "viewer", field: "x"}),
        ("/api/v1/cluster/join-tokens", {field: "x"}),
    ):
        answer = await cluster.call("POST", path, body)
        assert answer.status == 400, path
        assert field in answer.json["problems"][0]["field"]
    assert cluster.core.store.state.count(SERVICES) == 0
