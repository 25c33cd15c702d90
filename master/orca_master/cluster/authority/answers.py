"""What the endpoints of the authority answer. Times in Unix seconds."""

import msgspec


class MissingOut(msgspec.Struct, frozen=True):
    """A master or worker that has not gone along with the present step. `role`: master or worker."""

    role: str
    name: str
    reason: str


class RotationOut(msgspec.Struct, frozen=True):
    """`step`: trusting (everybody is told to trust both), then renewing (everybody is given a
    certificate of the new authority). `missing`: at most 100 of `missing_count`."""

    step: str
    old: str
    new: str
    actor: str
    begun_at: float
    step_since: float
    forced: bool
    member_count: int
    missing_count: int
    missing: list[MissingOut]


class AuthorityOut(msgspec.Struct, frozen=True):
    """The authority that signs. Fingerprints: SHA-256 of the certificate, in hex.

    `since`: when it began to sign (null: since the cluster was founded); `until`: when it expires;
    `replaced`: the one before it, which is refused; `left_behind`: who had no certificate of this one
    when the one before was dropped; `rotation`: null where none goes on.
    """

    fingerprint: str
    since: float | None
    until: float
    replaced: str | None
    left_behind: list[str]
    rotation: RotationOut | None
