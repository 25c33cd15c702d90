"""The steps of a change of the authority: whom they wait for, and what they leave."""

import os

import pytest
from cryptography import x509

from orca_common.real import real_env
from orca_master.app.schema import SCHEMA
from orca_master.cluster import pki
from orca_master.cluster.authority import operations
from orca_master.cluster.authority.model import HOLDINGS, Holding, Rotation, RotationStep
from orca_master.cluster.authority.rotation import (
    FORCED_SECONDS,
    Member,
    has_done,
    missing,
    waited_for,
)
from orca_master.cluster.model import AUTHORITY, JOIN_GRANTS, Authority, JoinGrant
from orca_master.errors import Conflict
from orca_master.identity.wrapping.keyring import Keyring, WrappingKey
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction
from orca_proto.identity import NodeRole
from orca_proto.trust import fingerprints, issuer, vouched

OLD, NEW = "a" * 64, "b" * 64


def a_rotation(step: RotationStep = RotationStep.TRUSTING, *, forced_at: float = 0.0) -> Rotation:
    old, new = Authority(b"old\n", b"1"), Authority(b"new\n", b"2")
    return Rotation(old, new, OLD, NEW, b"", b"", "ann", 100.0, 100.0, step, forced_at)


def a_holding(*trusts: str, shows: str = OLD, id: str = "w1") -> Holding:
    return Holding("worker", id, trusts, shows)


def a_worker(id: str, *, is_connected: bool = True) -> Member:
    return Member(NodeRole.WORKER, id, f"name of {id}", is_connected)


@pytest.mark.parametrize(
    ("step", "holding", "expected"),
    [
        (RotationStep.TRUSTING, a_holding(OLD), False),
        (RotationStep.TRUSTING, a_holding(NEW, shows=NEW), False),
        (RotationStep.TRUSTING, a_holding(OLD, NEW), True),
        (RotationStep.RENEWING, a_holding(OLD, NEW), False),
        (RotationStep.RENEWING, a_holding(OLD, NEW, shows=NEW), True),
        (RotationStep.RENEWING, a_holding(OLD, shows=NEW), False),
        (RotationStep.RENEWING, a_holding(NEW, shows=NEW), True),
    ],
)
def test_what_each_step_asks_for(step: RotationStep, holding: Holding, expected: bool) -> None:
    assert has_done(a_rotation(step), holding) is expected


def test_who_has_said_nothing_is_missing_masters_first() -> None:
    master = Member(NodeRole.MASTER, "m1", "zed", True)
    members = [a_worker("w2", is_connected=False), a_worker("w1"), master]
    found = missing(a_rotation(), members, [a_holding(OLD, NEW)])
    assert [(each.member.id, each.reason) for each in found] == [
        ("m1", "has not said that it trusts both authorities"),
        ("w2", "is not connected"),
    ]


def test_a_holding_of_a_master_says_nothing_of_a_worker_with_its_id() -> None:
    both = Holding("master", "w1", (OLD, NEW), OLD)
    assert len(missing(a_rotation(), [a_worker("w1")], [both])) == 1


def test_all_are_waited_for_unless_it_is_forced() -> None:
    members = [a_worker("w1"), a_worker("w2", is_connected=False)]
    all_missing = missing(a_rotation(), members, [])
    assert waited_for(a_rotation(), all_missing, 1e9) == all_missing
    forced = a_rotation(forced_at=200.0)
    assert [each.member.id for each in waited_for(forced, all_missing, 200.0)] == ["w1"]
    assert waited_for(forced, all_missing, 200.0 + FORCED_SECONDS) == []


def a_transaction() -> Transaction:
    tx = Transaction(State(SCHEMA))
    tx.put(AUTHORITY, Authority(b"old\n", b"1"))
    return tx


def trusted(tx: Transaction) -> bytes:
    return operations.trusted(tx)


def test_from_the_old_one_over_both_to_the_new_one() -> None:
    tx = a_transaction()
    assert trusted(tx) == b"old\n"
    operations.begin(tx, a_rotation(), ())
    assert trusted(tx) == b"old\nnew\n", "the one that signs comes first"
    one = missing(a_rotation(), [a_worker("w1")], [])
    assert operations.advance(tx, one, now=110.0) is None
    operations.hold(tx, a_holding(OLD, NEW))
    assert operations.advance(tx, [], now=120.0) is not None
    assert trusted(tx) == b"new\nold\n"
    assert operations.the_authority(tx).wrapped_key == b"2"
    assert operations.advance(tx, one, now=130.0) is None
    assert operations.advance(tx, [], now=140.0) is not None
    assert trusted(tx) == b"new\n"
    authority = operations.the_authority(tx)
    assert (authority.since, authority.previous, authority.left_behind) == (120.0, b"old\n", ())
    assert operations.advance(tx, [], now=150.0) is None, "there is nothing more to do"
    assert list(tx.scan(HOLDINGS)) == []


def test_who_is_left_behind_is_named() -> None:
    tx = a_transaction()
    operations.begin(tx, a_rotation(), ())
    operations.force(tx, now=100.0)
    gone = missing(a_rotation(), [a_worker("w1", is_connected=False)], [])
    operations.advance(tx, gone, now=101.0)
    operations.advance(tx, gone, now=102.0)
    assert operations.the_authority(tx).left_behind == ("name of w1",)


def test_a_second_one_is_refused_with_how_far_the_first_is() -> None:
    tx = a_transaction()
    operations.begin(tx, a_rotation(), ())
    with pytest.raises(Conflict, match=r"step 1 of 2 \(trusting\) .*rotate-ca --status"):
        operations.begin(tx, a_rotation(), ())


def test_tokens_that_name_the_old_one_end_with_it() -> None:
    tx = a_transaction()
    for name, at in (("early", 90.0), ("during", 115.0), ("late", 125.0)):
        tx.put(JOIN_GRANTS, JoinGrant(name, 1e9, 1, at))
    operations.begin(tx, a_rotation(), ())
    operations.advance(tx, [], now=120.0)
    assert len(list(tx.scan(JOIN_GRANTS))) == 3
    operations.advance(tx, [], now=130.0)
    assert [grant.public_key for grant in tx.scan(JOIN_GRANTS)] == ["late"]


def test_what_is_said_while_nothing_is_replaced_is_not_kept() -> None:
    tx = a_transaction()
    operations.hold(tx, a_holding(OLD))
    assert list(tx.scan(HOLDINGS)) == []


def an_authority(mark: str) -> pki.Signer:
    env, kek = real_env(threads=1), WrappingKey(os.urandom(32))
    made = pki.create_authority(env, "c1", kek, mark=mark)
    return pki.open_authority(made, "c1", Keyring(env, [kek.raw]))


def test_of_two_authorities_each_certificate_finds_its_own() -> None:
    old, new = an_authority(""), an_authority("2f")
    assert old.certificate.subject != new.certificate.subject
    own = x509.load_pem_x509_certificate(pki.issue_master(real_env(threads=1), new, "m1")[0])
    assert issuer(own, [old.certificate, new.certificate]) == new.certificate
    assert issuer(own, [old.certificate]) is None
    assert set(fingerprints(old.pem + new.pem)) == {old.fingerprint.hex(), new.fingerprint.hex()}


def test_only_who_was_vouched_for_is_trusted_besides_the_one_that_is_named() -> None:
    old, new, foreign = an_authority(""), an_authority("2f"), an_authority("3a")
    voucher = pki.vouch(old, new.pem)
    found = vouched(old.certificate, [(new.certificate, voucher), (foreign.certificate, voucher)])
    assert found == [old.certificate, new.certificate]
    assert vouched(new.certificate, [(old.certificate, voucher)]) == [new.certificate]
