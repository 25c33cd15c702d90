"""The trail: who changed what, and when. Kept in the history, in the same commit as the change."""

import msgspec

KIND = "audit"


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """`action` is `noun.verb`, `resource` a path such as `services/default/web`; `at` Unix seconds."""

    at: float
    actor: str
    action: str
    resource: str
    details: dict[str, str] = {}
