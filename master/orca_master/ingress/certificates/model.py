"""Certificates with which nodes answer HTTPS."""

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
