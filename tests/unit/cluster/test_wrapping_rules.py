"""The key-encryption key is replaced: who has to have it first, and that no key goes too early."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_common.real import real_env
from orca_master.app.folder import keep_keks
from orca_master.app.schema import SCHEMA
from orca_master.app.wrapped import WRAPPED
from orca_master.cluster.masters.port import Member
from orca_master.cluster.model import MASTERS, Master
from orca_master.cluster.wrapping import operations
from orca_master.errors import Conflict, NotReady
from orca_master.identity.wrapping.keyring import KeyAway, Keyring, Unopened, WrappingKey
from orca_master.identity.wrapping.model import (
    KEY_HOLDINGS,
    KeyHolding,
    Wrapping,
    WrappingStep,
    the_wrapping,
)
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction

OLD, NEW, OTHER = "old", "new", "other"


def a_transaction(*masters: str) -> Transaction:
    tx = Transaction(State(SCHEMA))
    for name in masters:
        tx.put(MASTERS, Master(id=name, name=name, joined_at=1.0))
    return tx


def members(
    *names: str, away: tuple[str, ...] = (), learning: tuple[str, ...] = ()
) -> list[Member]:
    return [Member(name, "", name not in learning, name not in away) for name in names]


def row(tx: Transaction) -> Wrapping:
    found = the_wrapping(tx)
    assert found is not None
    return found


def handing(*masters: str, having: tuple[str, ...] = ()) -> Transaction:
    tx = a_transaction(*masters)
    operations.begin(tx, OLD, actor="me", now=1.0)
    operations.made(tx, NEW)
    for name in having:
        operations.hold(tx, KeyHolding(name, (OLD, NEW)))
    return tx


def test_it_goes_from_step_to_step_and_once_only() -> None:
    tx = handing("a", having=("a",))
    assert row(tx).needed == (OLD, NEW)
    with pytest.raises(Conflict, match=r"replaced already \(handing\).*--status"):
        operations.begin(tx, OLD, actor="me", now=2.0)
    assert operations.switch(tx, NEW, now=3.0)
    assert (row(tx).step, row(tx).needed, row(tx).since) == ("wrapping", (OLD, NEW), 3.0)
    assert not operations.switch(tx, NEW, now=4.0)
    with pytest.raises(Conflict, match="wrapping"):
        operations.begin(tx, NEW, actor="me", now=4.0)
    operations.finish(tx, NEW, now=5.0)
    assert (row(tx).step, row(tx).needed) == ("done", (NEW,))
    operations.begin(tx, NEW, actor="me", now=6.0)
    assert row(tx).needed == (NEW,)
    assert [record.kind for record in tx.records] == ["audit"] * 4


def test_a_leader_without_the_key_makes_another_and_the_first_one_never_wraps() -> None:
    tx = handing("a", "b", "c", having=("a", "b", "c"))
    operations.made(tx, OTHER)
    assert not operations.may_wrap(tx, members("a", "b", "c"))
    assert not operations.switch(tx, NEW, now=2.0)
    operations.switch(tx, OTHER, now=2.0)
    operations.made(tx, "late")
    assert row(tx).needed == (OLD, OTHER)


names = ("a", "b", "c", "d", "e")
some = st.frozensets(st.sampled_from(names))


@given(some, some, some)
def test_nothing_is_wrapped_before_all_who_are_there_and_a_majority_have_the_key(
    having: frozenset[str], away: frozenset[str], learning: frozenset[str]
) -> None:
    tx = handing(*names, having=tuple(having))
    those = members(*names, away=tuple(away), learning=tuple(learning))
    voters = set(names) - learning
    may = operations.may_wrap(tx, those)
    assert may == (set(names) - away <= having and 2 * len(having & voters) > len(voters))


def test_who_lacks_the_key_is_named_with_the_reason() -> None:
    tx = handing("a", "b", "c", "d", having=("a",))
    operations.hold(tx, KeyHolding("c", (OLD,), is_given=True))
    operations.hold(tx, KeyHolding("gone", (OLD, NEW)))
    found = operations.lacking(tx, members("a", "b", "c", "d", away=("b",)))
    assert [each.name for each in found] == ["b", "c", "d"]
    assert found[0].reason == "is not connected; it gets the key when it is back"
    assert "copy that file to `kek` in its data folder" in found[1].reason
    assert tx.get(KEY_HOLDINGS, "gone") is None


def test_who_has_not_deleted_the_old_key_is_named_too() -> None:
    tx = handing("a", "b", having=("a", "b"))
    operations.switch(tx, NEW, now=2.0)
    assert operations.lacking(tx, members("a", "b")) == []
    operations.finish(tx, NEW, now=3.0)
    operations.hold(tx, KeyHolding("a", (NEW,)))
    (found,) = operations.lacking(tx, members("a", "b"))
    assert (found.name, found.reason) == ("b", "has not said that it has deleted the old key")


def test_given_up_it_is_as_before_and_says_why() -> None:
    tx = handing("a", having=("a",))
    operations.give_up(tx, "for this reason", now=2.0)
    assert (row(tx).step, row(tx).needed, row(tx).given_up) == ("done", (OLD,), "for this reason")
    assert not operations.switch(tx, NEW, now=3.0)
    tx = handing("a", having=("a",))
    operations.switch(tx, NEW, now=2.0)
    operations.give_up(tx, "too late", now=3.0)
    assert row(tx).step is WrappingStep.WRAPPING


def test_what_does_not_open_is_refused_or_not_there_yet() -> None:
    env, other = real_env(threads=1), WrappingKey(os.urandom(32))
    keyring = Keyring(env, [os.urandom(32)])
    wrapped = keyring.wrap(State(SCHEMA), b"this", b"value")
    assert keyring.unwrap(b"this", wrapped) == b"value"
    for purpose, found in ((b"that", wrapped), (b"this", wrapped[:-1]), (b"this", b"short")):
        with pytest.raises(Unopened):
            keyring.unwrap(purpose, found)
    keyring.doubt = "it is fetched"
    with pytest.raises(KeyAway, match="it is fetched"):
        keyring.unwrap(b"this", other.wrap(env, b"this", b"value"))
    tx = handing("a")
    operations.switch(tx, NEW, now=2.0)
    with pytest.raises(NotReady, match="it is fetched"):
        keyring.current(tx)
    assert other.id not in repr(other.raw)


ABOUT_OTHERS = {
    ("certificates", "chain"),
    ("secret_versions", "ciphertext"),  # with a data key
    ("done", "result"),  # what was answered; nothing is kept of requests with secrets
    ("authority", "certificate"),
    ("authority", "previous"),
    ("authority_rotation", "certificate"),
    ("authority_rotation", "previous"),
    ("authority_rotation", "old_voucher"),
    ("authority_rotation", "new_voucher"),
}


def bytes_in(kind: Any) -> Iterator[str]:
    """Names of fields of bytes, also of rows within."""
    for name, hint in get_type_hints(kind).items():
        for each in (hint, *get_args(hint)):
            if each is bytes:
                yield name
            elif isinstance(each, type) and issubclass(each, msgspec.Struct):
                yield from bytes_in(each)


def test_no_bytes_of_the_state_are_forgotten_when_all_is_wrapped_anew() -> None:
    """Whoever adds such a field says here, or in `app/wrapped.py`, what it is."""
    found = {(t.name, field) for t in SCHEMA.tables.values() for field in bytes_in(t.row_type)}
    left = found - ABOUT_OTHERS
    wrapped = {
        ("authority", "wrapped_key"),
        ("authority_rotation", "wrapped_key"),
        ("secret_data_keys", "wrapped"),
        ("registry_logins", "ciphertext"),
        ("hooks", "ciphertext"),
        ("certificates", "sealed_key"),
        ("acme", "sealed_key"),
    }
    assert left == wrapped
    assert {table for table, _ in wrapped} == {each.table.name for each in WRAPPED}


class Crash(BaseException):
    """The process ends here."""


_crash_after: list[int] = []


def _count(event: str, args: tuple[Any, ...]) -> None:
    if _crash_after and event in ("open", "os.rename", "os.remove"):
        _crash_after[0] -= 1
        if _crash_after[0] < 0:
            raise Crash


sys.addaudithook(_count)


@contextmanager
def crashing(after: int) -> Iterator[None]:
    """At the file that is opened, renamed or removed next after so many."""
    _crash_after[:] = [after]
    try:
        yield
    finally:
        _crash_after.clear()


def held(folder: Path) -> set[bytes]:
    files = (folder / "kek", folder / "kek.next")
    return {file.read_bytes() for file in files if file.exists()}


def a_key(number: int) -> bytes:
    return bytes([number]) * 32


CHANGES = [
    ([1], [1, 2]),
    ([1, 2], [2]),
    ([1, 2], [1]),
    ([1, 2], [1, 3]),
    ([1, 2], [2, 3]),
    ([1], [2]),
    ([1], [2, 3]),
    ([1, 2], [3]),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_wherever_the_process_ends_each_key_that_was_there_and_is_needed_still_is(
    tmp_path: Path, before: list[int], after: list[int]
) -> None:
    for crash in range(30):
        folder = tmp_path / str(crash)
        folder.mkdir(mode=0o700)
        for name, number in zip(("kek", "kek.next"), before, strict=False):
            (folder / name).write_bytes(a_key(number))
            (folder / name).chmod(0o600)
        try:
            with crashing(crash):
                keep_keks(folder, list(map(a_key, after)))
        except Crash:
            kept = held(folder)
            assert set(map(a_key, before)) & set(map(a_key, after)) <= kept
            assert all(len(each) == 32 for each in kept)
            keep_keks(folder, list(map(a_key, after)))
            assert crash < 29
        else:
            assert crash > 0
            break
        finally:
            assert (folder / "kek").stat().st_mode & 0o777 == 0o600
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert files == dict(zip(("kek", "kek.next"), map(a_key, after), strict=False))
    else:
        raise AssertionError("it never ended")
