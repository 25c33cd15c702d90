"""The endpoints of the cluster's authority, on a master alone; several are in the integration tests."""

from cryptography import x509

from inprocess import InProcess
from orca_master.cluster.authority.model import ROTATIONS
from orca_master.identity.model import Role
from orca_proto.join import parse, trusted_by
from orca_proto.trust import fingerprint

AUTHORITY = "/api/v1/cluster/authority"


async def test_the_first_authority_signs_since_the_cluster_was_founded(cluster: InProcess) -> None:
    answer = await cluster.call("GET", AUTHORITY)
    assert answer.status == 200
    ca = (await cluster.call("GET", "/api/v1/cluster/ca")).json
    certificate = x509.load_pem_x509_certificate(ca["certificate"].encode())
    assert answer.json == {
        "fingerprint": fingerprint(certificate),
        "since": None,
        "until": certificate.not_valid_after_utc.timestamp(),
        "replaced": None,
        "left_behind": [],
        "rotation": None,
    }
    assert ca["authorities"] == []


async def test_a_rotation_is_begun_once_and_stands_in_the_trail(cluster: InProcess) -> None:
    answer = await cluster.call("POST", f"{AUTHORITY}/rotate")
    assert answer.status == 202
    rotation = answer.json["rotation"]
    assert (rotation["step"], rotation["forced"], rotation["actor"]) == ("trusting", False, "admin")
    assert {each["name"] for each in rotation["missing"]} == {"master-1", cluster.worker.name}
    assert rotation["old"] == answer.json["fingerprint"] != rotation["new"]
    again = await cluster.call("POST", f"{AUTHORITY}/rotate")
    assert again.status == 409
    assert f"waits for master-1, {cluster.worker.name}" in again.json["error"]
    forced = await cluster.call("POST", f"{AUTHORITY}/rotate", params={"force": "true"})
    assert (forced.status, forced.json["rotation"]["forced"]) == (202, True)
    assert forced.json["rotation"]["new"] == rotation["new"], "it is the same one"
    trail = (await cluster.call("GET", "/api/v1/audit", params={"resource": "authority"})).json
    assert [event["action"] for event in trail["events"]] == ["authority.force", "authority.rotate"]


async def test_tokens_from_before_and_of_now_trust_both_meanwhile(cluster: InProcess) -> None:
    path = "/api/v1/cluster/join-tokens"
    token = parse((await cluster.call("POST", path, {"role": "worker"})).json["token"])
    rotation = (await cluster.call("POST", f"{AUTHORITY}/rotate")).json["rotation"]
    answer = (await cluster.call("GET", "/api/v1/cluster/ca")).json
    trusted = [fingerprint(each) for each in trusted_by(token, answer)]
    assert trusted == [rotation["old"], rotation["new"]]
    for each in answer["authorities"]:
        each["voucher"] = answer["authorities"][0]["voucher"]
    (only,) = trusted_by(token, answer)
    assert fingerprint(only) == rotation["old"], "the new one is believed for its voucher only"


async def test_only_who_may_change_masters_may_replace_it(cluster: InProcess) -> None:
    token = await cluster.add_token(Role.DEPLOYER)
    assert (await cluster.call("POST", f"{AUTHORITY}/rotate", token=token)).status == 403
    assert (await cluster.call("GET", AUTHORITY, token=token)).status == 200
    assert cluster.core.store.state.get(ROTATIONS, "ca") is None
