"""Certificates with which nodes answer HTTPS, and what is ordered from an authority by ACME (RFC 8555)."""

from enum import StrEnum

import msgspec

from orca_master.state.table import Table


class Source(StrEnum):
    GIVEN = "given"
    ACME = "acme"


class Certificate(msgspec.Struct, frozen=True, omit_defaults=True):
    """`domains`: its DNS names; `chain`: PEM, its own first; `sealed_key`: its private key, see `Keys`;
    times in Unix seconds; `project`: whose it is (empty: the cluster's)."""

    tenant: str
    name: str
    domains: tuple[str, ...]
    chain: bytes
    sealed_key: bytes
    not_before: float
    not_after: float
    issuer: str
    made_at: float
    by: str = ""
    project: str = ""
    source: Source = Source.GIVEN


CERTIFICATES = Table("certificates", Certificate, key=lambda c: (c.tenant, c.name))


class Acme(msgspec.Struct, frozen=True, omit_defaults=True):
    """From whom certificates are ordered. `ca`: PEM, who is trusted to be the directory (empty: whom the
    system trusts); `sealed_key`: the account's, see `Keys`; `account`: its URL there, empty before it is
    registered, with `told` as its address; `agreed_at`: to the terms of service, Unix seconds."""

    tenant: str
    directory: str
    sealed_key: bytes
    agreed_at: float
    email: str = ""
    ca: str = ""
    account: str = ""
    told: str = ""
    by: str = ""


ACME = Table("acme", Acme, key=lambda a: (a.tenant,))


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is under way, or has failed, for a domain; none: nothing has. Times in Unix seconds.

    `begun_at`: 0 while none is under way; `token`, `answer`: what nodes answer to the authority; `failures`:
    in a row, the last of them for this `reason`; `tries_at`: not again before; `is_asked`: it is wanted then,
    even if nothing else asks for it."""

    tenant: str
    domain: str
    begun_at: float = 0.0
    token: str = ""
    answer: str = ""
    failures: int = 0
    reason: str = ""
    tries_at: float = 0.0
    is_asked: bool = False


ORDERS = Table("acme_orders", Order, key=lambda o: (o.tenant, o.domain))
