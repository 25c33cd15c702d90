"""Which certificates are ordered by ACME, when they are renewed, and how long is waited after failures."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from builders import a_service
from orca_master.app.schema import SCHEMA
from orca_master.http.names import check_name
from orca_master.ingress.certificates import operations
from orca_master.ingress.certificates.authority import Refused
from orca_master.ingress.certificates.model import (
    ACME,
    CERTIFICATES,
    ORDERS,
    Acme,
    Certificate,
    Order,
    Source,
)
from orca_master.ingress.certificates.ordering import (
    MOST_WAIT_SECONDS,
    WAITS_SECONDS,
    Wanted,
    forgotten,
    name_for,
    printable,
    renew_at,
    wait_seconds,
    wanted,
)
from orca_master.services.model import SERVICES, Policy
from orca_master.services.routing.model import Routing
from orca_master.state.rows import State
from orca_master.state.transaction import Transaction

DAY = 86400.0
HOST = "app.example.com"


def a_certificate(*domains: str, source: Source = Source.ACME, days: float = 90.0) -> Certificate:
    """From time 0 on."""
    return Certificate(
        "default", f"{source}-{domains[0].strip('*.')}", domains, b"", b"", 0.0, days * DAY, "", 0.0,
        source=source,
    )  # fmt: skip


def a_transaction(*domains: str, is_on: bool = True) -> Transaction:
    tx = Transaction(State(SCHEMA))
    tx.put(SERVICES, a_service(policy=Policy(routing=Routing(domains=domains))))
    if is_on:
        tx.put(ACME, Acme("default", "https://ca/dir", b"", 0.0, account="https://ca/1"))
    return tx


def only(tx: Transaction) -> Wanted:
    (found,) = wanted(tx)
    return found


def test_every_domain_without_a_certificate_is_ordered_at_once_and_a_wildcard_never() -> None:
    found = {each.domain: each for each in wanted(a_transaction(HOST, "*.example.com"))}
    assert found[HOST].at == 0.0
    assert math.isinf(found["*.example.com"].at)
    assert "single names only" in found["*.example.com"].reason
    off = only(a_transaction(HOST, is_on=False))
    assert math.isinf(off.at)
    assert "orca certs acme on" in off.reason


def test_a_given_certificate_is_enough_until_its_last_day() -> None:
    tx = a_transaction(HOST)
    tx.put(CERTIFICATES, a_certificate("*.example.com", source=Source.GIVEN, days=30))
    assert only(tx).at == 29 * DAY
    tx.put(CERTIFICATES, replace(a_certificate("*.example.com", source=Source.GIVEN), project="x"))
    assert only(tx).at == 0.0


@given(st.floats(60.0, 400 * DAY), st.floats(0.0, 1e9), st.text("abc", min_size=1, max_size=9))
def test_it_is_renewed_when_less_than_a_third_of_its_own_life_is_left(
    life: float, begins: float, name: str
) -> None:
    row = replace(a_certificate(HOST), name=name, not_before=begins, not_after=begins + life)
    left = (row.not_after - renew_at(row)) / life
    assert 0.29 < left < 0.3334
    assert renew_at(row) == renew_at(row)


def test_renewals_are_not_all_at_once() -> None:
    times = {renew_at(replace(a_certificate(HOST), name=f"n{number}")) for number in range(50)}
    assert max(times) - min(times) > DAY


def test_a_failure_is_waited_out_and_who_asks_is_served_now() -> None:
    tx = a_transaction(HOST)
    tx.put(CERTIFICATES, a_certificate(HOST))
    due = only(tx)
    assert due.at == renew_at(a_certificate(HOST))
    operations.begin(tx, due, now=64 * DAY)
    assert only(tx).is_under_way
    assert only(tx).at <= 64 * DAY  # another leader takes it on
    until = operations.fail(tx, due, Refused("dns: no such\x1b[1m name\n"), now=64 * DAY)
    assert until == only(tx).at == 64 * DAY + 60
    assert only(tx).reason == "dns: no such[1m name"
    assert not only(tx).is_under_way
    operations.ask(tx, "default", HOST, now=5.0)
    assert only(tx).at == 5.0
    operations.begin(tx, due, now=6.0)
    assert operations.fail(tx, due, Refused("again"), now=6.0) == 6.0 + 300
    assert only(tx).at == renew_at(a_certificate(HOST))  # nothing asks for it before


def test_how_long_is_waited() -> None:
    def after(failures: int, asked: float | None = None, *, is_limited: bool = False) -> float:
        return wait_seconds(failures, asked_seconds=asked, is_limited=is_limited)

    assert [after(number + 1) for number in range(7)] == [*WAITS_SECONDS, WAITS_SECONDS[-1]]
    assert after(1, 600.0) == 600.0
    assert after(4, 600.0) == 7200.0
    assert after(1, is_limited=True) == 3600.0
    assert after(1, 90.0, is_limited=True) == 90.0
    assert after(1, 1e12) == MOST_WAIT_SECONDS


def test_an_account_that_is_not_known_is_made_anew_at_once_but_not_again_and_again() -> None:
    tx = a_transaction(HOST)
    for wait in (0.0, 300.0):
        operations.begin(tx, only(tx), now=10.0)
        gone = Refused("accountDoesNotExist: who?", kind="accountDoesNotExist")
        assert operations.fail(tx, only(tx), gone, now=10.0) == 10.0 + wait
        setting = tx.get(ACME, "default")
        assert setting is not None
        assert setting.account == ""


def test_nothing_comes_of_an_order_that_was_given_up() -> None:
    tx = a_transaction(HOST)
    due = only(tx)
    operations.begin(tx, due, now=1.0)
    tx.delete(ACME, "default")
    operations.forget_orders(tx, "default")
    operations.fail(tx, due, Refused("late"), now=2.0)
    operations.begin(tx, due, now=3.0)
    assert list(tx.scan(ORDERS)) == []


def test_what_is_routed_no_longer_is_forgotten_once_it_has_expired() -> None:
    tx = a_transaction(HOST)
    mine, other = a_certificate(HOST), a_certificate("old.example.com")
    for row in (mine, other, a_certificate("given.example.com", source=Source.GIVEN)):
        tx.put(CERTIFICATES, row)
    order = Order("default", "old.example.com", failures=1)
    tx.put(ORDERS, order)
    assert forgotten(tx, 89 * DAY) == ([], [order])
    assert forgotten(tx, 91 * DAY) == ([other], [order])


def test_another_account_key_only_for_another_directory_and_what_failed_is_tried_again() -> None:
    tx = a_transaction(HOST, is_on=False)
    first = Acme("default", "https://ca/dir", b"", 0.0, email="a@example.com")
    assert operations.set_acme(tx, first, b"one")
    assert not operations.set_acme(tx, first, b"two")
    tx.put(ORDERS, Order("default", HOST, failures=3, tries_at=1e9))
    assert operations.set_acme(tx, replace(first, email="b@example.com"), b"three")
    assert list(tx.scan(ORDERS)) == []
    row = tx.get(ACME, "default")
    assert row is not None
    assert (row.sealed_key, row.email) == (b"one", "b@example.com")
    assert operations.set_acme(tx, replace(first, directory="https://other/dir"), b"four")
    row = tx.get(ACME, "default")
    assert row is not None
    assert row.sealed_key == b"four"


@pytest.mark.parametrize(
    "domain", [HOST, "a" * 63 + "." + "b" * 63 + ".com", "xn--mller-kva.example", "a--b.-c"]
)
def test_the_name_comes_from_the_domain_and_takes_nobody_elses(domain: str) -> None:
    name = name_for(domain, [])
    assert check_name(name) == name
    assert name.startswith("acme-")
    taken = replace(a_certificate("x.example.com"), name=name)
    other = name_for(domain, [taken])
    assert (check_name(other) == other, len(domain) > 50 or other != name) == (True, True)
    own = replace(a_certificate(domain), name="mine")
    assert name_for(domain, [taken, own]) == "mine"


def test_a_reason_is_one_line_of_bounded_length() -> None:
    assert printable("a\n\tb\x00c‮" + "x" * 5000) == "a bc" + "x" * 996
