"""The rules of a change of the authority: whom it waits for, and when it goes on."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from orca_master.cluster.authority.model import Holding, Rotation, RotationStep
from orca_proto.identity import NodeRole

FORCED_SECONDS = 30.0
"""So long a step that is forced waits for who is connected."""


@dataclass(frozen=True, slots=True)
class Member:
    """A master or a worker of the cluster."""

    role: NodeRole
    id: str
    name: str
    is_connected: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """Who has not gone along with the present step, and why as far as is known."""

    member: Member
    reason: str


def missing(
    rotation: Rotation, members: Iterable[Member], holdings: Collection[Holding]
) -> list[Missing]:
    """Who is still to do what the present step asks; masters first, by name."""
    held = {(holding.role, holding.id): holding for holding in holdings}
    found = []
    for member in sorted(members, key=lambda each: (each.role, each.name)):
        holding = held.get((str(member.role), member.id))
        if holding is None or not has_done(rotation, holding):
            found.append(Missing(member, _reason(rotation, member, holding)))
    return found


def has_done(rotation: Rotation, holding: Holding) -> bool:
    """Who holds a certificate of the new authority and trusts only that has been through it all."""
    if rotation.step is RotationStep.TRUSTING:
        return rotation.fingerprints <= set(holding.trusts)
    return rotation.new_fingerprint in holding.trusts and holding.shows == rotation.new_fingerprint


def waited_for(rotation: Rotation, those: Iterable[Missing], now: float) -> list[Missing]:
    """Those of the missing for whose sake the step is not over yet."""
    if not rotation.forced_at:
        return list(those)
    if now >= forced_until(rotation):
        return []
    return [each for each in those if each.member.is_connected]


def forced_until(rotation: Rotation) -> float:
    """When a step that is forced waits for nobody any more, Unix seconds."""
    return max(rotation.forced_at, rotation.step_since) + FORCED_SECONDS


def _reason(rotation: Rotation, member: Member, holding: Holding | None) -> str:
    if not member.is_connected:
        return "is not connected"
    if rotation.step is RotationStep.TRUSTING or holding is None:
        return "has not said that it trusts both authorities"
    return "has no certificate of the new authority yet"
