"""What the endpoints of masters answer."""

import msgspec


class MasterOut(msgspec.Struct, frozen=True):
    """A master. `role`: one of leader, follower, learner, joining.

    `behind`: entries of the log that it lacks; `heard_seconds`: ago. Only the leader knows these
    two. `api`, `workers`, `peers`: where it is reached.
    """

    id: str
    name: str
    role: str
    connected: bool
    behind: int | None
    heard_seconds: float | None
    api: str
    workers: str
    peers: str
    version: str


class MastersOut(msgspec.Struct, frozen=True):
    """`tolerates`: how many masters may be lost before nothing can be changed any more."""

    masters: list[MasterOut]
    term: int
    voters: int
    tolerates: int


class EnrolledMasterOut(msgspec.Struct, frozen=True):
    """`certificate`: X.509 in PEM; `masters`: the others' addresses among masters, by id."""

    id: str
    cluster_id: str
    certificate: str
    masters: dict[str, str]


class LedByOut(msgspec.Struct, frozen=True):
    """`leader`: the name of the master that leads now."""

    leader: str | None
