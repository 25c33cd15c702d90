"""The endpoints of masters on a master alone; several real ones are in the integration tests."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from inprocess import InProcess
from orca_master.cluster.masters.operations import check_removal, tolerates
from orca_master.cluster.masters.port import Member
from orca_master.errors import Conflict
from orca_master.identity.model import Role
from orca_proto.identity import NodeRole
from orca_proto.join import parse

MASTERS = "/api/v1/cluster/masters"


async def test_one_master_is_listed_as_the_leader(cluster: InProcess) -> None:
    answer = await cluster.call("GET", MASTERS)
    (master,) = answer.json["masters"]
    assert (master["role"], master["connected"], master["behind"]) == ("leader", True, 0)
    assert (answer.json["voters"], answer.json["tolerates"]) == (1, 0)


async def test_the_last_master_cannot_be_removed(cluster: InProcess) -> None:
    (master,) = (await cluster.call("GET", MASTERS)).json["masters"]
    answer = await cluster.call("DELETE", f"{MASTERS}/{master['name']}", params={"force": "true"})
    assert answer.status == 409
    assert "only master" in answer.json["error"]


async def test_an_unknown_master_is_a_404(cluster: InProcess) -> None:
    assert (await cluster.call("DELETE", f"{MASTERS}/nobody")).status == 404


async def test_a_master_alone_cannot_hand_over(cluster: InProcess) -> None:
    answer = await cluster.call("POST", f"{MASTERS}/transfer")
    assert answer.status == 503
    assert "goes on leading" in answer.json["error"]


async def test_leadership_goes_only_to_a_master_that_is_known(cluster: InProcess) -> None:
    (master,) = (await cluster.call("GET", MASTERS)).json["masters"]
    path = f"{MASTERS}/transfer"
    assert (await cluster.call("POST", path, params={"to": "nobody"})).status == 404
    answer = await cluster.call("POST", path, params={"to": master["name"]})
    assert (answer.status, answer.json) == (200, {"leader": master["name"]})


async def test_a_deployer_may_not_touch_masters(cluster: InProcess) -> None:
    token = await cluster.add_token(Role.DEPLOYER)
    for method, path in (("DELETE", f"{MASTERS}/x"), ("POST", f"{MASTERS}/transfer")):
        assert (await cluster.call(method, path, token=token)).status == 403


@pytest.mark.parametrize("role", [NodeRole.WORKER, NodeRole.MASTER])
async def test_a_token_for_one_role_opens_nothing_to_the_other_cl_01(
    cluster: InProcess, role: NodeRole
) -> None:
    answer = await cluster.call("POST", "/api/v1/cluster/join-tokens", {"role": str(role)})
    token = parse(answer.json["token"])
    peers = "127.0.0.1:9"
    der = a_request()
    body = {
        "name": "x1",
        "token": token.public_key,
        "request": base64.b64encode(der).decode(),
    }
    as_master = body | {
        "peers": peers,
        "signature": base64.b64encode(token.sign(f"x1 {peers}", der, NodeRole.MASTER)).decode(),
    }
    as_worker = body | {"signature": base64.b64encode(token.sign("x1", der)).decode()}
    other = NodeRole.WORKER if role is NodeRole.MASTER else NodeRole.MASTER
    path, wrong = {
        NodeRole.MASTER: (f"{MASTERS}/enroll", as_master),
        NodeRole.WORKER: ("/api/v1/cluster/enroll", as_worker),
    }[other]
    refused = await cluster.call("POST", path, wrong, token=None)
    assert refused.status == 403
    assert f"lets a {role} join" in refused.json["error"]


async def test_what_masters_ask_each_other_is_not_on_the_public_port(cluster: InProcess) -> None:
    assert (await cluster.call("GET", "/internal/v1/keys")).status == 404


def a_request() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def voters(*alive: bool) -> list[Member]:
    return [Member(str(n), f"h:{n}", True, is_up) for n, is_up in enumerate(alive)]


@pytest.mark.parametrize(
    ("alive", "expected"),
    [((True,), 0), ((True, True), 0), ((True,) * 3, 1), ((True, True, False), 0), ((True,) * 5, 2)],
)
def test_how_many_may_fail(alive: tuple[bool, ...], expected: int) -> None:
    assert tolerates(voters(*alive)) == expected


@pytest.mark.parametrize(
    ("alive", "removed", "is_safe"),
    [
        ((True, True, True), 2, False),
        ((True, True, False), 2, True),
        ((True, True), 1, True),
        ((True,) * 4, 3, True),
        ((True,) * 5, 0, False),
    ],
)
def test_a_removal_that_makes_less_safe_wants_to_be_insisted_on(
    alive: tuple[bool, ...], removed: int, is_safe: bool
) -> None:
    members = voters(*alive)
    check_removal(members, str(removed), force=True)
    if is_safe:
        check_removal(members, str(removed), force=False)
    else:
        with pytest.raises(Conflict, match="--force"):
            check_removal(members, str(removed), force=False)


def test_the_majority_is_never_given_away() -> None:
    with pytest.raises(Conflict, match="bring one back"):
        check_removal(voters(True, True, False, False), "0", force=True)
