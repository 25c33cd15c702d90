"""The change from one certificate authority to the next, and who has gone along with it.

    trusting   both are trusted; the old one signs        until everybody trusts both
    renewing   both are trusted; the new one signs        until everybody has a certificate of it
    (no row)   there is one authority, and it is trusted

It only goes forward. `cluster.model.AUTHORITY` is always the one that signs.
"""

from enum import StrEnum

import msgspec

from orca_master.cluster.model import Authority
from orca_master.state.table import Table


class RotationStep(StrEnum):
    TRUSTING = "trusting"
    RENEWING = "renewing"


class Rotation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row while it goes on. Fingerprints are SHA-256 of the certificates, in hex.

    `old_voucher`: what the new authority has signed for the old one, and the other way round.
    `forced_at` not 0: who is not connected is not waited for, the others not long.
    """

    old: Authority
    new: Authority
    old_fingerprint: str
    new_fingerprint: str
    old_voucher: bytes
    new_voucher: bytes
    actor: str
    begun_at: float
    step_since: float
    step: RotationStep = RotationStep.TRUSTING
    forced_at: float = 0.0

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset({self.old_fingerprint, self.new_fingerprint})


class Holding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a master or a worker says that it has on its disk, while a rotation goes on: which
    authorities it trusts, and which one has issued the certificate that it shows (fingerprints)."""

    role: str
    id: str
    trusts: tuple[str, ...]
    shows: str


ROTATIONS = Table("authority_rotation", Rotation, key=lambda _: ("ca",))
HOLDINGS = Table("authority_holdings", Holding, key=lambda h: (h.role, h.id))
