"""A caller that is remembered is forgotten in the very version of the state that changes a token."""

import pytest

from builders import a_node
from orca_master.app.schema import SCHEMA
from orca_master.cluster.model import NODES
from orca_master.errors import Unauthenticated
from orca_master.identity.callers import MOST_REMEMBERED, Callers
from orca_master.identity.model import Role
from orca_master.identity.operations import create_token, revoke
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction

NEVER = 0.0


def with_token(
    state: State, name: str, *, role: Role = Role.VIEWER, expires_at: float = NEVER
) -> State:
    tx = Transaction(state)
    create_token(
        tx, id=name, name=name, role=role, secret=f"secret-{name}", now=0.0, expires_at=expires_at
    )
    return tx.state


def bearer(name: str) -> str:
    return f"Bearer secret-{name}"


def test_a_token_is_remembered_while_other_tables_change() -> None:
    callers, state = Callers(), with_token(State(SCHEMA), "ci")
    first = callers.authenticate(state, bearer("ci"), now=1.0)
    tx = Transaction(state)
    tx.put(NODES, a_node())
    assert callers.authenticate(tx.state, bearer("ci"), now=1.0) is first


def test_a_revoked_token_is_refused_at_once() -> None:
    callers = Callers()
    state = with_token(with_token(State(SCHEMA), "ci"), "admin", role=Role.ADMIN)
    callers.authenticate(state, bearer("ci"), now=1.0)
    tx = Transaction(state)
    revoke(tx, "ci", now=1.0)
    with pytest.raises(Unauthenticated, match="invalid token"):
        callers.authenticate(tx.state, bearer("ci"), now=1.0)


def test_a_token_that_was_made_again_has_its_new_role() -> None:
    callers = Callers()
    state = with_token(with_token(State(SCHEMA), "ci"), "admin", role=Role.ADMIN)
    before = callers.authenticate(state, bearer("ci"), now=1.0)
    tx = Transaction(state)
    revoke(tx, "ci", now=1.0)
    after = callers.authenticate(
        with_token(tx.state, "ci", role=Role.DEPLOYER), bearer("ci"), now=1.0
    )
    assert after.permissions > before.permissions


def test_a_remembered_token_expires() -> None:
    callers, state = Callers(), with_token(State(SCHEMA), "ci", expires_at=10.0)
    callers.authenticate(state, bearer("ci"), now=9.9)
    with pytest.raises(Unauthenticated, match="has expired"):
        callers.authenticate(state, bearer("ci"), now=10.0)


@pytest.mark.parametrize("written", [None, "", "Bearer", "Basic secret-ci", "Bearer secret-c"])
def test_what_is_no_token_is_refused_each_time(written: str | None) -> None:
    callers, state = Callers(), with_token(State(SCHEMA), "ci")
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            callers.authenticate(state, written, now=1.0)


def test_what_is_remembered_is_bounded() -> None:
    callers, state = Callers(), with_token(State(SCHEMA), "ci")
    for number in range(MOST_REMEMBERED + 10):
        callers.authenticate(state, f"Bearer {' ' * number}secret-ci", now=1.0)
    assert len(callers) <= MOST_REMEMBERED
