"""What becomes of orders, as transactions. An order whose row is gone was given up: nothing comes of it."""

from collections.abc import Sequence

from msgspec.structs import replace

from orca_master.audit.operations import trail
from orca_master.ingress.certificates import ordering
from orca_master.ingress.certificates.authority import Challenge, Refused
from orca_master.ingress.certificates.keys import Keys
from orca_master.ingress.certificates.model import (
    ACME,
    CERTIFICATES,
    ORDERS,
    Acme,
    Certificate,
    Order,
    Source,
)
from orca_master.ingress.certificates.ordering import Wanted
from orca_master.ingress.certificates.reading import Read
from orca_master.state.transaction import Transaction

NO_ACCOUNT = "accountDoesNotExist"
LIMITED = "rateLimited"
AUTHOR = "acme"
"""Whose name stands in the trail for what is ordered."""


def set_acme(tx: Transaction, wanted: Acme, sealed_key: bytes) -> bool:
    """`wanted` without a key: `sealed_key` is for a new account, which another directory asks for. What has
    failed is tried again at once. Whether anything has changed."""
    before = tx.get(ACME, wanted.tenant)
    if before is None or before.directory != wanted.directory:
        after = replace(wanted, sealed_key=sealed_key)
    elif (before.email, before.ca) == (wanted.email, wanted.ca):
        return False
    else:
        after = replace(before, email=wanted.email, ca=wanted.ca, by=wanted.by)
    tx.put(ACME, after)
    forget_orders(tx, wanted.tenant)
    return True


def forget_orders(tx: Transaction, tenant: str) -> None:
    for row in list(tx.scan(ORDERS)):
        if row.tenant == tenant:
            tx.delete(ORDERS, row.tenant, row.domain)


def ask(tx: Transaction, tenant: str, domain: str, *, now: float) -> None:
    """Order it now, unless that is under way."""
    row = tx.get(ORDERS, tenant, domain) or Order(tenant, domain)
    if not row.begun_at:
        tx.put(ORDERS, replace(row, tries_at=now, is_asked=True))


def begin(tx: Transaction, wanted: Wanted, *, now: float) -> None:
    if tx.get(ACME, wanted.tenant) is None:
        return
    row = tx.get(ORDERS, *wanted.key) or Order(*wanted.key)
    tx.put(ORDERS, replace(row, begun_at=now, token="", answer=""))


def registered(tx: Transaction, setting: Acme, url: str) -> None:
    row = tx.get(ACME, setting.tenant)
    if row is not None and row.sealed_key == setting.sealed_key:
        tx.put(ACME, replace(row, account=url, told=setting.email))


def answer(tx: Transaction, wanted: Wanted, challenge: Challenge) -> int:
    """Have nodes answer it. The version of the state from which on they do."""
    row = tx.get(ORDERS, *wanted.key)
    if row is not None:
        tx.put(ORDERS, replace(row, token=challenge.token, answer=challenge.answer))
    return tx.state.version + 1


def fail(tx: Transaction, wanted: Wanted, refused: Refused, *, now: float) -> float:
    """Keep why, and when it is tried again: the latter in Unix seconds.

    An account that the authority does not know is forgotten; with another one it is tried at once, once."""
    row, setting = tx.get(ORDERS, *wanted.key), tx.get(ACME, wanted.tenant)
    has_no_account = refused.kind == NO_ACCOUNT
    if setting is not None and has_no_account:
        tx.put(ACME, replace(setting, account=""))
    if row is None:
        return now
    failures = row.failures + 1
    wait = ordering.wait_seconds(
        failures, asked_seconds=refused.wait_seconds, is_limited=refused.kind == LIMITED
    )
    if has_no_account and not row.reason.startswith(NO_ACCOUNT):
        wait = 0.0
    kept = Order(
        *wanted.key,
        failures=failures,
        reason=ordering.printable(refused.reason),
        tries_at=now + wait,
        is_asked=row.is_asked and wait == 0.0,
    )
    tx.put(ORDERS, kept)
    return kept.tries_at


def keep(tx: Transaction, keys: Keys, wanted: Wanted, told: Read, *, now: float) -> str | None:
    """The certificate that came; its name. None: it is wanted no longer. Raises NotReady."""
    if tx.get(ORDERS, *wanted.key) is None:
        return None
    known = [each for each in tx.scan(CERTIFICATES) if each.tenant == wanted.tenant]
    name = ordering.name_for(wanted.domain, known)
    tx.put(
        CERTIFICATES,
        Certificate(
            tenant=wanted.tenant,
            name=name,
            domains=told.domains,
            chain=told.chain,
            sealed_key=keys.sealed(tx, wanted.tenant, name, told.key),
            not_before=told.not_before,
            not_after=told.not_after,
            issuer=told.issuer,
            made_at=now,
            by=AUTHOR,
            project=wanted.project,
            source=Source.ACME,
        ),
    )
    tx.delete(ORDERS, *wanted.key)
    trail(
        tx,
        actor=AUTHOR,
        action="certificate.set",
        resource=f"certificates/{name}",
        now=now,
        domains=list(told.domains),
    )
    return name


def forget(tx: Transaction, certificates: Sequence[Certificate], orders: Sequence[Order]) -> None:
    for certificate in certificates:
        if tx.get(CERTIFICATES, certificate.tenant, certificate.name) == certificate:
            tx.delete(CERTIFICATES, certificate.tenant, certificate.name)
    for order in orders:
        tx.delete(ORDERS, order.tenant, order.domain)
