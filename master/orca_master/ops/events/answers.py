"""What the stream of events tells."""

from msgspec import UNSET, Struct, UnsetType


class EventOut(Struct, frozen=True):
    """`id`: `version.n`, what to come again with; `kind`: `noun.verb`, or `gap`: what happened since `id`
    and is not here was not kept. `at`: Unix seconds. What an event has none of is left out."""

    id: str
    version: int
    at: float
    kind: str
    text: str
    project: str | UnsetType = UNSET
    service: str | UnsetType = UNSET
    replica: int | UnsetType = UNSET
    node: str | UnsetType = UNSET
    actor: str | UnsetType = UNSET
    details: dict[str, str | int | bool] | UnsetType = UNSET
