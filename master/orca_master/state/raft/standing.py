"""How a log stands, for people and metrics: a picture of one moment, which decides nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """What the leader knows of one member. `heard_seconds`: since its last answer; 0 for the leader."""

    id: str
    address: str
    is_voter: bool
    match_index: int
    is_connected: bool
    heard_seconds: float
    is_being_sent_a_snapshot: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """`members` is empty on a master that does not lead."""

    term: int
    commit_index: int
    applied_index: int
    last_index: int
    members: tuple[Progress, ...]
