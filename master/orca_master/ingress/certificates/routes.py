"""The endpoints of certificates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from msgspec.structs import replace
from pydantic import Field, SecretStr

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from orca_master.http.dialects import CLUSTER
from orca_master.http.names import Name, check_name
from orca_master.http.route import Call, NoQuery, Route, StrictModel
from orca_master.http.scopes import VisibleQuery
from orca_master.identity.model import Permission
from orca_master.ingress.certificates import operations, ordering
from orca_master.ingress.certificates.answers import (
    CertificateAsked,
    CertificateOut,
    CertificateRemoved,
    CertificateSet,
    CertificatesOut,
    WithoutOut,
)
from orca_master.ingress.certificates.choosing import certificates
from orca_master.ingress.certificates.keys import Keys
from orca_master.ingress.certificates.model import ACME, CERTIFICATES, Certificate, Source
from orca_master.ingress.certificates.ordering import Wanted
from orca_master.ingress.certificates.reading import read
from orca_master.ingress.shares import routed
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

MOST_PEM = 128 << 10
EXAMPLE = {
    "certificate": "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n",
    "key": "-----BEGIN PRIVATE KEY-----\n…\n-----END PRIVATE KEY-----\n",
}


class CertificateIn(StrictModel):
    certificate: Annotated[
        str, Field(min_length=1, max_length=MOST_PEM, description="PEM: the host's own first.")
    ]
    key: Annotated[
        SecretStr, Field(min_length=1, max_length=MOST_PEM, description="PEM, not encrypted.")
    ]
    project: Annotated[
        Name | None, Field(description="For this project's domains; else for all.")
    ] = None


@dataclass(frozen=True, slots=True)
class CertificateRoutes:
    """None takes an `Idempotency-Key`: what is kept of a request under it would be a hash of the key."""

    env: Env
    store: Store
    keys: Keys

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="certificates")
        path = "/api/v1/certificates"
        reads, writes = Permission.SERVICES_READ, Permission.SECRETS_WRITE
        return [
            route(
                f"GET {path}",
                reads,
                self.list,
                "Certificates of domains, without keys",
                query=VisibleQuery,
                answer=CertificatesOut,
            ),
            route(
                f"PUT {path}/{{name}}",
                writes,
                self.put,
                "Set a certificate and its key",
                body=CertificateIn,
                answer=CertificateSet,
                example=EXAMPLE,
            ),
            route(
                f"DELETE {path}/{{name}}",
                writes,
                self.remove,
                "Forget a certificate",
                answer=CertificateRemoved,
            ),
            route(
                f"POST {path}/{{name}}/renew",
                writes,
                self.renew,
                "Order it anew now",
                answer=CertificateAsked,
            ),
        ]

    async def list(self, call: Call[VisibleQuery, None]) -> CertificatesOut:
        state, project = await self.store.fresh(), call.scope(call.query.project)
        services = [s for s in routed(state) if project in (None, s.project)]
        shown = certificates(state, services)
        wanted = [w for w in ordering.wanted(state) if project in (None, w.project)]
        found = [
            _out(row, shown, wanted)
            for row in state.scan(CERTIFICATES)
            if row.tenant == call.tenant and project in (None, row.project or project)
        ]
        found.sort(key=lambda each: each.name)
        without = [_without(each) for each in wanted if each.domain not in shown]
        return CertificatesOut(found, without)

    async def put(self, call: Call[NoQuery, CertificateIn]) -> CertificateSet:
        given, now = call.body, self.env.now()
        name, project = _name(call), call.scope(given.project) or ""
        told = read(given.certificate, given.key.get_secret_value(), now)
        row = Certificate(
            tenant=call.tenant,
            name=name,
            domains=told.domains,
            chain=told.chain,
            sealed_key=b"",
            not_before=told.not_before,
            not_after=told.not_after,
            issuer=told.issuer,
            made_at=now,
            by=call.actor,
            project=project,
        )

        def put(tx: Transaction) -> bool:
            before = tx.get(CERTIFICATES, call.tenant, name)
            _check_whose(call, before)
            if before is not None and (before.chain, before.project) == (row.chain, project):
                return False
            sealed = self.keys.sealed(tx, call.tenant, name, told.key)
            tx.put(CERTIFICATES, replace(row, sealed_key=sealed))
            self._note(tx, call, "set", name, domains=list(row.domains))
            return True

        changed = await self.store.update(put)
        state = self.store.state
        kept = state.get(CERTIFICATES, call.tenant, name) or row
        return CertificateSet(_out(kept, certificates(state, routed(state)), ()), changed)

    async def remove(self, call: Call[NoQuery, None]) -> CertificateRemoved:
        name = _name(call)

        def remove(tx: Transaction) -> None:
            before = tx.get(CERTIFICATES, call.tenant, name)
            _check_whose(call, before)
            if before is None:
                raise NotFound("certificate", name)
            tx.delete(CERTIFICATES, call.tenant, name)
            self._note(tx, call, "remove", name)

        await self.store.update(remove)
        return CertificateRemoved(f"removed certificate {name}")

    async def renew(self, call: Call[NoQuery, None]) -> CertificateAsked:
        """Also of one that has never come, under the name that it would have."""
        name, now = _name(call), self.env.now()

        def renew(tx: Transaction) -> list[str]:
            row = tx.get(CERTIFICATES, call.tenant, name)
            _check_whose(call, row)
            if row is not None and row.source is not Source.ACME:
                raise Conflict(f"certificate {name} was given: set it again to renew it")
            if tx.get(ACME, call.tenant) is None:
                raise Conflict("ACME is off: begin with `orca certs acme on`")
            domains = _orderable(tx, call, name, row)
            if not domains:
                raise _no_domain(name, row)
            for domain in domains:
                operations.ask(tx, call.tenant, domain, now=now)
            self._note(tx, call, "renew", name)
            return domains

        domains = await self.store.update(renew)
        return CertificateAsked(f"a certificate for {', '.join(domains)} is ordered", domains)

    def _note(
        self, tx: Transaction, call: Call[Any, Any], verb: str, name: str, **details: object
    ) -> None:
        trail(
            tx,
            actor=call.actor,
            action=f"certificate.{verb}",
            resource=f"certificates/{name}",
            now=self.env.now(),
            **details,
        )


def _name(call: Call[Any, Any]) -> str:
    """Raises Invalid."""
    try:
        return check_name(call.path["name"])
    except ValueError as error:
        raise Invalid([Problem("name", str(error))]) from error


def _check_whose(call: Call[Any, Any], row: Certificate | None) -> None:
    """A token of a project touches that project's only. Raises Forbidden."""
    own = call.scope(None)
    if row is not None and own is not None and row.project != own:
        raise Forbidden(f"certificate {row.name} is not of project {own}")


def _orderable(
    tx: Transaction, call: Call[Any, Any], name: str, row: Certificate | None
) -> list[str]:
    """Domains that are routed and can be ordered, of this certificate, or of one that would have the name."""
    known = [each for each in tx.scan(CERTIFICATES) if each.tenant == call.tenant]
    own = call.scope(None)
    return [
        each.domain
        for each in ordering.wanted(tx)
        if each.tenant == call.tenant
        and own in (None, each.project)
        and not math.isinf(each.at)
        and (
            each.domain in row.domains
            if row is not None
            else ordering.name_for(each.domain, known) == name
        )
    ]


def _no_domain(name: str, row: Certificate | None) -> Conflict | NotFound:
    if row is None:
        return NotFound("certificate", name)
    return Conflict(f"no service is routed for {', '.join(row.domains)}: deploy one first")


def _out(
    row: Certificate, shown: "dict[str, Certificate]", wanted: Sequence[Wanted]
) -> CertificateOut:
    own = next((each for each in wanted if each.own == row), None)
    order = own.order if own is not None else None
    return CertificateOut(
        name=row.name,
        project=row.project or None,
        domains=list(row.domains),
        hosts=sorted(domain for domain, used in shown.items() if used is row or used == row),
        issuer=row.issuer,
        not_before=row.not_before,
        not_after=row.not_after,
        source=row.source,
        made_at=row.made_at,
        by=row.by,
        renews_at=own.at if own is not None and not math.isinf(own.at) else None,
        reason=(order.reason or None) if order is not None else None,
    )


def _without(wanted: Wanted) -> WithoutOut:
    tries_at = None if math.isinf(wanted.at) or wanted.is_under_way else wanted.at
    reason = wanted.reason or "it has not been ordered yet"
    if wanted.is_under_way:
        reason = f"it is being ordered; {wanted.reason}" if wanted.reason else "it is being ordered"
    return WithoutOut(wanted.domain, reason, tries_at)
