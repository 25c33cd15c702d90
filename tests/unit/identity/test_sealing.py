"""Ciphertexts: worth nothing under another name, and readable while keys change."""

import random

import pytest
from msgspec.structs import replace

from orca_common.env import Env
from orca_common.real import real_env
from orca_master.app.schema import SCHEMA
from orca_master.errors import Conflict, Invalid, NotReady, TooLarge
from orca_master.identity.secrets import operations
from orca_master.identity.secrets.model import (
    DATA_KEYS,
    SECRET_VERSIONS,
    SECRETS,
    Secret,
    SecretVersion,
)
from orca_master.identity.secrets.vault import Unreadable, Vault
from orca_master.identity.wrapping.keyring import Keyring
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction

TENANT = "default"
KEK = b"k" * 32


@pytest.fixture(scope="module")
def env() -> Env:
    return real_env(threads=1)


@pytest.fixture
def vault(env: Env) -> Vault:
    return Vault(env, Keyring(env, [KEK]))


def put(
    tx: Transaction,
    vault: Vault,
    key: str,
    value: bytes,
    project: str = "",
    used: tuple[int, ...] = (),
) -> Secret:
    secret, _ = operations.set_secret(
        tx,
        vault,
        tenant=TENANT,
        project=project,
        key=key,
        value=value,
        used=used,
        roll=False,
        by="me",
        now=1.0,
    )
    return secret


def row(tx: Transaction, key: str, project: str = "") -> SecretVersion:
    found = operations.current_of(tx, TENANT, project, key)
    assert found is not None
    return found


def test_what_was_sealed_is_opened_and_stands_nowhere(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"planted-7319")
    assert vault.open(tx, row(tx, "A")) == b"planted-7319"
    assert all(b"planted-7319" not in (raw or b"") for raw in tx.changes.values())


@pytest.mark.parametrize("field", ["key", "project", "tenant", "version"])
def test_ev_21_a_ciphertext_under_another_name_does_not_open(vault: Vault, field: str) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"value", "shop")
    elsewhere = {"key": "B", "project": "other", "tenant": "t2", "version": 7}
    moved = replace(row(tx, "A", "shop"), **{field: elsewhere[field]})
    with pytest.raises(Unreadable):
        vault.open(tx, moved)


def test_a_changed_ciphertext_does_not_open(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"value")
    found = row(tx, "A")
    for place in range(len(found.ciphertext)):
        bent = bytearray(found.ciphertext)
        bent[place] ^= 1
        with pytest.raises(Unreadable):
            vault.open(tx, replace(found, ciphertext=bytes(bent)))


def test_another_key_encryption_key_says_what_to_do(env: Env, vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"value")
    with pytest.raises(Unreadable, match="put back the `kek`"):
        Vault(env, Keyring(env, [b"x" * 32])).open(tx, row(tx, "A"))
    with pytest.raises(NotReady, match="no key-encryption key"):
        Vault(env, Keyring(env)).open(tx, row(tx, "A"))


def test_no_two_ciphertexts_are_equal(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    for key in ("A", "B"):
        put(tx, vault, key, b"the same")
    sealed = [row(tx, key).ciphertext for key in ("A", "B")]
    assert sealed[0] != sealed[1]
    assert sealed[0][:12] != sealed[1][:12]


@pytest.mark.parametrize("seed", range(20))
def test_ev_24_every_secret_is_readable_at_every_step_of_a_change_of_the_key(
    env: Env, seed: int
) -> None:
    """Each transaction is a place where a leader may end; another one, with a vault of its own, goes on,
    while values are set and keys are changed again."""
    chance = random.Random(seed)
    tx = Transaction(State(SCHEMA))
    values: dict[str, bytes] = {}
    for number in range(12):
        values[f"K{number}"] = chance.randbytes(chance.randint(1, 40))
        put(tx, Vault(env, Keyring(env, [KEK])), f"K{number}", values[f"K{number}"])
    rotations = 0
    for step in range(60):
        vault = Vault(env, Keyring(env, [KEK]))
        tx = Transaction(tx.state)
        if step == 0 or (rotations < 3 and chance.random() < 0.1):
            operations.rotate_key(tx, vault, TENANT, by="me")
            rotations += 1
        elif chance.random() < 0.3:
            key = chance.choice(list(values))
            values[key] = chance.randbytes(5)
            put(tx, vault, key, values[key])
        else:
            left = operations.left_to_seal(tx, TENANT)
            assert operations.seal_anew(tx, vault, TENANT, left[: chance.randint(0, 4)]) == []
            operations.forget_old_keys(tx, TENANT)
        for key, value in values.items():
            assert Vault(env, Keyring(env, [KEK])).open(tx, row(tx, key)) == value
    operations.seal_anew(
        tx, Vault(env, Keyring(env, [KEK])), TENANT, operations.left_to_seal(tx, TENANT)
    )
    operations.forget_old_keys(tx, TENANT)
    (last,) = operations.data_keys(tx, TENANT)
    assert last.number == rotations + 1
    assert {each.data_key for each in tx.scan(SECRET_VERSIONS)} == {last.number}


def test_what_cannot_be_opened_keeps_its_key_and_stops_nothing_else(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"good")
    put(tx, vault, "B", b"bad")
    tx.put(SECRET_VERSIONS, replace(row(tx, "B"), ciphertext=b"\0" * 40))
    operations.rotate_key(tx, vault, TENANT, by="me")
    left = operations.left_to_seal(tx, TENANT)
    assert operations.seal_anew(tx, vault, TENANT, left) == ["B version 1"]
    operations.forget_old_keys(tx, TENANT)
    assert vault.open(tx, row(tx, "A")) == b"good"
    assert len(list(tx.scan(DATA_KEYS))) == 2


def test_keys_cannot_be_changed_faster_than_values_are_sealed(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"value")
    for _ in range(operations.MOST_DATA_KEYS - 1):
        operations.rotate_key(tx, vault, TENANT, by="me")
    with pytest.raises(Conflict, match="still under way"):
        operations.rotate_key(tx, vault, TENANT, by="me")


def test_old_versions_stay_while_they_are_used_and_are_bounded(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    for number in range(1, 6):
        put(tx, vault, "A", b"%d" % number, used=(2,))
    kept = operations.versions_of(tx, TENANT, "", "A")
    assert [each.version for each in kept] == [2, 4, 5]
    many = tuple(range(1000))
    for number in range(6, 6 + 2 * operations.MOST_VERSIONS):
        secret = put(tx, vault, "A", b"%d" % number, used=many)
    kept = operations.versions_of(tx, TENANT, "", "A")
    assert len(kept) == operations.MOST_VERSIONS
    assert kept[-1].version == secret.current
    assert secret.bytes_kept == sum(each.size for each in kept)


def test_the_same_value_again_is_no_new_version(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    assert put(tx, vault, "A", b"value").current == 1
    assert put(tx, vault, "A", b"value").current == 1
    assert put(tx, vault, "A", b"other").current == 2


def test_a_number_is_not_given_again_while_a_revision_names_it(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"one")
    operations.remove_secret(tx, tenant=TENANT, project="", key="A", is_referred_to=True)
    assert operations.find_uses(tx, TENANT, "shop", ["A"])[0] == ()
    assert put(tx, vault, "A", b"two").current == 2
    operations.remove_secret(tx, tenant=TENANT, project="", key="A", is_referred_to=False)
    assert list(tx.scan(SECRETS)) == []


def test_ev_27_values_have_bounds(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"x" * operations.MOST_VALUE_BYTES)
    with pytest.raises(TooLarge, match="64 KiB"):
        put(tx, vault, "B", b"x" * (operations.MOST_VALUE_BYTES + 1))
    with pytest.raises(Invalid, match="orca secrets rm"):
        put(tx, vault, "B", b"")
    put(tx, vault, "B", bytes(range(256)))
    assert not row(tx, "B").is_text
    assert row(tx, "A").is_text


def test_ten_thousand_secrets_and_no_more() -> None:
    state = State(SCHEMA)
    for first in range(0, operations.MOST_SECRETS, 1000):
        tx = Transaction(state)
        for number in range(first, first + 1000):
            tx.put(SECRETS, Secret(TENANT, "", f"K{number}", 1, 1))
        state = tx.state
    with pytest.raises(Conflict, match="10000 secrets already"):
        operations.check_room(state, TENANT, "", "ONE_MORE", 5)
    with pytest.raises(Conflict, match="10000 secrets already"):
        operations.check_room(state, TENANT, "shop", "K5", 5)
    operations.check_room(state, TENANT, "", "K5", 5)


def test_all_values_together_are_bounded() -> None:
    tx = Transaction(State(SCHEMA))
    tx.put(SECRETS, Secret(TENANT, "", "BIG", 1, 1, bytes_kept=operations.MOST_BYTES))
    with pytest.raises(TooLarge, match="64 MiB"):
        operations.check_room(tx, TENANT, "", "A", 1)
    operations.check_room(tx, TENANT, "", "A", 0)


def test_the_projects_own_comes_before_the_clusters(vault: Vault) -> None:
    tx = Transaction(State(SCHEMA))
    put(tx, vault, "A", b"cluster")
    put(tx, vault, "A", b"shop", "shop")
    put(tx, vault, "B", b"other", "other")
    uses, missing = operations.find_uses(tx, TENANT, "shop", ["A", "B"])
    assert [use.name for use in uses] == ["shop/A"]
    assert [each.key for each in missing] == ["B"]
    assert "--project shop" in missing[0].reason
    (use,), _ = operations.find_uses(tx, TENANT, "third", ["A"])
    assert use.name == "A"
