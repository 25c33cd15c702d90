"""The OpenAPI document says what is true: valid, complete, and no answer has a status that it lacks."""

import base64
import random
import re
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from openapi_spec_validator import validate

from certificates import a_pair
from forges import a_hook_with_a_delivery
from inprocess import InProcess
from orca_master.http.responses import statuses
from orca_master.http.route import Open
from orca_proto.identity import NodeRole
from orca_proto.join import parse


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
    assert names == {"wait", "timeout", "plan", "Idempotency-Key"}
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


async def test_every_answer_in_json_has_a_type(cluster: InProcess) -> None:
    public = [route for route in cluster.routes if route.permission is not Open.MASTERS]
    lacking = [r.line for r in public if r.media_type == "application/json" and r.answer is None]
    assert lacking == []


async def test_open_routes_need_no_token_and_the_others_do(cluster: InProcess) -> None:
    document = (await cluster.call("GET", "/api/v1/openapi.json")).json
    for route in cluster.routes:
        if route.permission is Open.MASTERS:
            continue
        operation = document["paths"][route.path][route.method.lower()]
        is_open = isinstance(route.permission, Open)
        assert operation["security"] == ([] if is_open else [{"token": []}]), route.line
        says_401 = not is_open or route.takes_raw
        assert ("401" in operation["responses"]) is says_401, route.line


async def test_the_stream_is_told_in_its_three_forms(cluster: InProcess) -> None:
    document = (await cluster.call("GET", "/api/v1/openapi.json")).json
    responses = document["paths"]["/api/v1/audit/stream"]["get"]["responses"]
    assert "101" in responses
    assert set(responses["200"]["content"]) == {"application/x-ndjson", "text/event-stream"}


async def test_each_example_is_accepted(cluster: InProcess) -> None:
    """As it stands; where a join token has to sign the request, with a real signature.

    A second master is not let in: this one would call it, and has no certificate to do that with.
    Its token lets a worker join, which is found out when all else has been read.
    """
    document = (await cluster.call("GET", "/api/v1/openapi.json")).json
    hook = await a_hook_with_a_delivery(cluster)
    sent = []
    for route in cluster.routes:
        if route.body is None or route.permission is Open.MASTERS:
            continue
        content = document["paths"][route.path][route.method.lower()]["requestBody"]["content"]
        body = content["application/json"]["examples"]["example"]["value"]
        token: str | None = ""
        if route.path.endswith("/certificates/{name}"):
            body = a_pair()  # nobody's key is in a document
        if route.permission is Open.SIGNED:
            body, token = await signed(cluster, body), None
        id = hook if "/webhooks/" in route.path else cluster.worker.name
        path = route.path.replace("{name}", "web").replace("{id}", id).replace("{key}", "KEY")
        path = path.replace("{host}", "127.0.0.1:9")
        query = "?wait=false" if route.path.endswith("/deploy") else ""
        answer = await cluster.call(route.method, path + query, body, token=token)
        if route.path.endswith("/masters/enroll"):
            assert answer.status == 403
            assert "lets a worker join" in answer.json["error"]
        else:
            assert answer.status in (200, 201, 202), (route.line, answer.text)
        sent.append(route.path)
    assert len(sent) >= 6


async def signed(cluster: InProcess, body: dict[str, Any]) -> dict[str, Any]:
    """The example with a token that exists, and what that has signed."""
    role = NodeRole.MASTER if "peers" in body else NodeRole.WORKER
    grant = await cluster.call("POST", "/api/v1/cluster/join-tokens", {"role": "worker"})
    token, der = parse(grant.json["token"]), a_certificate_request()
    what = f"{body['name']} {body['peers']}" if "peers" in body else body["name"]
    assert set(body) >= {"token", "request", "signature"}
    return body | {
        "token": token.public_key,
        "request": base64.b64encode(der).decode(),
        "signature": base64.b64encode(token.sign(what, der, role)).decode(),
    }


def a_certificate_request() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
