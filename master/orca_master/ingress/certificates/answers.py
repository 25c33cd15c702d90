"""What the endpoints of certificates answer. Nowhere a key."""

import msgspec


class CertificateOut(msgspec.Struct, frozen=True):
    """Times in Unix seconds. `source`: `given` or `acme`; `hosts`: the routed domains that it is shown for;
    `project` null: the whole cluster's."""

    name: str
    project: str | None
    domains: list[str]
    hosts: list[str]
    issuer: str
    not_before: float
    not_after: float
    source: str
    made_at: float
    by: str


class CertificatesOut(msgspec.Struct, frozen=True):
    """By name; `without`: routed domains that have none, and so no HTTPS."""

    certificates: list[CertificateOut]
    without: list[str]


class CertificateSet(msgspec.Struct, frozen=True):
    """`changed` false: it was there already."""

    certificate: CertificateOut
    changed: bool


class CertificateRemoved(msgspec.Struct, frozen=True):
    ok: str
