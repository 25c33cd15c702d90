"""The OpenAPI document says what is true: valid, complete, and no answer has a status that it lacks."""

import random
import re
from typing import Any

from openapi_spec_validator import validate

from inprocess import InProcess
from orca_master.http.responses import statuses
from orca_master.http.route import Open


async def test_it_is_valid_and_has_every_route(cluster: InProcess) -> None:
    answer = await cluster.call("GET", "/api/v1/openapi.json", token=None)
    validate(answer.json)
    told = {
        (method.upper(), path) for path, each in answer.json["paths"].items() for method in each
    }
    public = [route for route in cluster.routes if route.permission is not Open.MASTERS]
    assert told == {(route.method, route.path) for route in public}
    ids = [each["operationId"] for path in answer.json["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids))


async def test_deploy_is_described_with_its_body_and_key(cluster: InProcess) -> None:
    document = (await cluster.call("GET", "/api/v1/openapi.json")).json
    deploy = document["paths"]["/api/v1/deploy"]["post"]
    assert set(deploy["responses"]) >= {
        "200",
        "202",
        "206",
        "400",
        "401",
        "403",
        "422",
        "504",
        "507",
    }
    names = {parameter["name"] for parameter in deploy["parameters"]}
    assert names == {"wait", "timeout", "Idempotency-Key"}
    schema = deploy["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    service = document["components"]["schemas"]["ServiceIn"]["properties"]
    assert schema == "#/components/schemas/DeployIn"
    assert {"name", "image", "replicas", "resources"} <= set(service)


BODIES: list[Any] = [
    *(None, {}, [], "text", 7, {"services": []}, {"services": [{"name": "a", "image": "x"}]}),
    *({"replicas": 2}, {"replicas": -1}, {"name": "t", "role": "viewer"}, {"ttl": 5.0}, {"x": 1}),
    {"name": "m", "peers": "h:1", "token": "0" * 64, "request": "AA==", "signature": "AA=="},
]
QUERIES = ["", "?wait=false", "?project=a", "?limit=2", "?consistency=stale", "?force=true", "?x=1"]


async def test_no_answer_has_a_status_that_the_document_lacks(cluster: InProcess) -> None:
    """Requests right and wrong, by seed; 405 is every path's and stands in no operation."""
    chance, wrong = random.Random(4), []
    public = [route for route in cluster.routes if route.permission is not Open.MASTERS]
    seen: set[int] = set()
    for _ in range(400):
        route = chance.choice(public)
        if route.path.endswith(("/stop", "/deploy")) and chance.random() < 0.5:
            continue
        name = chance.choice(["a", "x", "master-1", "admin", "A_b", "a" * 80])
        path = re.sub(r"\{[^}]*\}", name, route.path) + chance.choice(QUERIES)
        if route.path.endswith("/deploy") and "wait" not in path:
            path += ("&" if "?" in path else "?") + "timeout=1"
        headers = {"Idempotency-Key": "k"} if chance.random() < 0.3 else {}
        token = chance.choice(["", "", "", None, "orca_wrong"])
        body = chance.choice(BODIES)
        answer = await cluster.call(route.method, path, body, token=token, headers=headers)
        seen.add(answer.status)
        if answer.status not in statuses(route):
            wrong.append((route.method, path, body, answer.status))
    assert wrong == []
    assert {200, 400, 401, 404} <= seen
