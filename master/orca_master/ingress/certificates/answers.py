"""What the endpoints of certificates answer. Nowhere a key."""

import msgspec


class CertificateOut(msgspec.Struct, frozen=True):
    """Times in Unix seconds. `source`: `given` or `acme`; `hosts`: the routed domains that it is shown for;
    `project` null: the whole cluster's. Of `acme`: `renews_at`, when the next one is ordered, null: it is
    not; `reason`, why the last try failed."""

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
    renews_at: float | None = None
    reason: str | None = None


class WithoutOut(msgspec.Struct, frozen=True):
    """A routed domain that has no certificate, and so no HTTPS. `tries_at`: when the next try is made to
    order one, Unix seconds; null: never, or it is under way."""

    domain: str
    reason: str
    tries_at: float | None


class CertificatesOut(msgspec.Struct, frozen=True):
    """By name, and by domain."""

    certificates: list[CertificateOut]
    without: list[WithoutOut]


class CertificateSet(msgspec.Struct, frozen=True):
    """`changed` false: it was there already."""

    certificate: CertificateOut
    changed: bool


class CertificateRemoved(msgspec.Struct, frozen=True):
    ok: str


class CertificateAsked(msgspec.Struct, frozen=True):
    """Of which domains one is ordered now."""

    ok: str
    domains: list[str]


class AcmeOut(msgspec.Struct, frozen=True):
    """`account`: its URL at the authority, null before it is registered there; `has_ca`: whose directory is
    trusted was given. All null where it is off."""

    is_on: bool
    directory: str | None
    email: str | None
    has_ca: bool
    account: str | None
    agreed_at: float | None
    by: str | None


class AcmeSet(msgspec.Struct, frozen=True):
    """`changed` false: it was so already."""

    acme: AcmeOut
    changed: bool


class AcmeRemoved(msgspec.Struct, frozen=True):
    ok: str
