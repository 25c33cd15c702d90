"""Which certificates are ordered, when, and how long is waited after a failure. Pure: time is a parameter.

Every routed domain has one of its own, unless a given one covers it. Single names only: a wildcard cannot be
proved by HTTP-01.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orca_master.http.names import is_name
from orca_master.ingress.certificates.choosing import chosen
from orca_master.ingress.certificates.model import (
    ACME,
    CERTIFICATES,
    ORDERS,
    Acme,
    Certificate,
    Order,
    Source,
)
from orca_master.ingress.shares import routed
from orca_master.services.model import Service
from orca_master.state.table import View

GIVEN_LEFT_SECONDS = 86400.0
"""A given certificate that lasts no longer is as none: its domain is not to be without one for a moment."""
RENEW_LEFT = 1 / 3
"""Of a certificate's own life."""
JITTER = 1 / 30
WAITS_SECONDS = (60.0, 300.0, 1800.0, 7200.0, 21600.0, 43200.0)
LIMITED_SECONDS = 3600.0
MOST_WAIT_SECONDS = 7 * 86400.0
MOST_REASON = 1000
MOST_NAME = 63

OFF = "no certificate covers it: give one with `orca certs set`, or order it with `orca certs acme on`"
WILDCARD = "ACME by HTTP proves single names only: give a certificate for it with `orca certs set`"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A domain, and when a certificate is to be ordered for it: in Unix seconds, infinite: never.

    `reason`: why never, or why the last try failed; `own`: what was ordered for it before."""

    tenant: str
    project: str
    domain: str
    at: float
    reason: str
    own: Certificate | None
    order: Order | None

    @property
    def key(self) -> tuple[str, str]:
        return self.tenant, self.domain

    @property
    def is_under_way(self) -> bool:
        return self.order is not None and self.order.begun_at > 0


def wanted(view: View) -> list[Wanted]:
    """Of every routed domain, in their order."""
    settings = {row.tenant: row for row in view.scan(ACME)}
    orders = {(row.tenant, row.domain): row for row in view.scan(ORDERS)}
    known: dict[str, list[Certificate]] = {}
    for each in view.scan(CERTIFICATES):
        known.setdefault(each.tenant, []).append(each)
    found = {}
    for service in routed(view):
        for domain in service.policy.routing.domains:
            key = service.tenant, domain
            found[key] = _wanted(
                service,
                domain,
                settings.get(service.tenant),
                known.get(service.tenant, ()),
                orders.get(key),
            )
    return [found[key] for key in sorted(found)]


def _wanted(
    service: Service,
    domain: str,
    setting: Acme | None,
    certificates: Sequence[Certificate],
    order: Order | None,
) -> Wanted:
    own = chosen(_of(certificates, Source.ACME), domain, service.project)
    given = chosen(_of(certificates, Source.GIVEN), domain, service.project)
    at = max(
        renew_at(own) if own is not None else 0.0,
        given.not_after - GIVEN_LEFT_SECONDS if given is not None else 0.0,
    )
    reason = order.reason if order is not None else ""
    if setting is None:
        at, reason = math.inf, OFF
    elif domain.startswith("*."):
        at, reason = math.inf, WILDCARD
    elif order is not None:
        at = order.tries_at if order.is_asked or order.begun_at else max(at, order.tries_at)
    return Wanted(service.tenant, service.project, domain, at, reason, own, order)


def _of(certificates: Iterable[Certificate], source: Source) -> Iterator[Certificate]:
    return (each for each in certificates if each.source is source)


def renew_at(row: Certificate) -> float:
    """When less than a third of its life is left, and a little later, so that not all come at once: how much
    is its own, the same whoever asks."""
    life = row.not_after - row.not_before
    drawn = hashlib.sha256(f"{row.tenant} {row.name} {row.not_after}".encode()).digest()[0] / 256
    return row.not_after - life * (RENEW_LEFT - JITTER * drawn)


def wait_seconds(failures: int, *, asked_seconds: float | None, is_limited: bool) -> float:
    """After so many failures in a row; `asked_seconds`: what the authority asks for."""
    wait = WAITS_SECONDS[min(failures, len(WAITS_SECONDS)) - 1]
    if is_limited and asked_seconds is None:
        wait = max(wait, LIMITED_SECONDS)
    return min(MOST_WAIT_SECONDS, max(wait, asked_seconds or 0.0))


def printable(reason: str) -> str:
    """One line, of bounded length."""
    line = " ".join(reason.split())
    return "".join(c for c in line if c.isprintable())[:MOST_REASON]


def name_for(domain: str, certificates: Sequence[Certificate]) -> str:
    """Of the certificate that is ordered for the domain: the one that it has, or one that is free.

    `certificates`: all of the tenant."""
    for each in certificates:
        if each.source is Source.ACME and each.domains == (domain,):
            return each.name
    plain = "acme-" + domain.replace(".", "-")
    taken = {each.name for each in certificates}
    if is_name(plain) and plain not in taken:
        return plain
    mark = "-" + hashlib.sha256(domain.encode()).hexdigest()[:12]
    return plain[: MOST_NAME - len(mark)] + mark


def forgotten(view: View, now: float) -> tuple[list[Certificate], list[Order]]:
    """Ordered certificates that have expired and orders, both of domains that are routed no longer."""
    domains = {each.key: each for each in wanted(view)}
    expired = [
        row
        for row in view.scan(CERTIFICATES)
        if row.source is Source.ACME
        and row.not_after <= now
        and not any((row.tenant, domain) in domains for domain in row.domains)
    ]
    orders = [row for row in view.scan(ORDERS) if (row.tenant, row.domain) not in domains]
    return expired, orders


def next_forgetting(view: View, now: float) -> float:
    """When the next of the ordered certificates expires; infinite: none does."""
    ends = (row.not_after for row in _of(view.scan(CERTIFICATES), Source.ACME))
    return min((end for end in ends if end > now), default=math.inf)
