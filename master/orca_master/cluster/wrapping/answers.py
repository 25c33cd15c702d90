"""What the endpoints of the key-encryption key answer. Keys are named by ids; times in Unix seconds."""

import msgspec


class KeyMissingOut(msgspec.Struct, frozen=True):
    """A master that has not on its disk what the present step asks for."""

    name: str
    reason: str


class WrappingOut(msgspec.Struct, frozen=True):
    """`current` wraps, since `since` (null: since the cluster was founded).

    `step`: handing (the new key goes to the masters), wrapping (what the old one has wrapped is wrapped
    anew), done. `missing`: masters that have not followed; those that are away are not waited for.
    `given_up`: why the last change came to nothing.
    """

    current: str
    since: float | None
    step: str
    actor: str | None
    begun_at: float | None
    given_up: str | None
    missing: list[KeyMissingOut]
