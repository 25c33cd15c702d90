"""What the endpoints of operators answer."""

from msgspec import UNSET, Struct, UnsetType


class HealthOut(Struct, frozen=True):
    """`status`: ok, or degraded with the reasons."""

    status: str
    reasons: list[str] | UnsetType = UNSET


class AuditEventOut(Struct, frozen=True):
    """`id`: its place in the trail; `at`: Unix seconds; `action`: `noun.verb`."""

    id: str
    at: float
    actor: str
    action: str
    resource: str
    details: dict[str, str]


class AuditOut(Struct, frozen=True):
    """Newest first. `next`: what to give as `before` for the page that follows; null: there is none."""

    events: list[AuditEventOut]
    next: str | None
