"""What can be done with the cluster's authority: replace it, step by step."""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from orca_master.audit.operations import trail
from orca_master.cluster.authority.model import (
    HOLDINGS,
    ROTATIONS,
    Holding,
    Rotation,
    RotationStep,
)
from orca_master.cluster.authority.rotation import Member, Missing, missing, waited_for
from orca_master.cluster.model import (
    AUTHORITY,
    JOIN_GRANTS,
    MASTERS,
    NODES,
    Authority,
    NodeState,
)
from orca_master.errors import Conflict, NotReady
from orca_master.state.transaction import Transaction, View
from orca_proto.identity import NodeRole

RESOURCE = "authority"
STEPS = {RotationStep.TRUSTING: 1, RotationStep.RENEWING: 2}
MOST_NAMES = 5


def the_authority(view: View) -> Authority:
    """The one that signs. Raises NotReady."""
    authority = view.get(AUTHORITY, "ca")
    if authority is None:
        raise NotReady(
            "this master does not have the cluster's state yet: it has to reach the other masters"
        )
    return authority


def the_rotation(view: View) -> Rotation | None:
    return view.get(ROTATIONS, "ca")


def trusted(view: View) -> bytes:
    """Whose certificates everybody trusts now (PEM); the one that signs comes first. Raises NotReady."""
    signs, rotation = the_authority(view), the_rotation(view)
    if rotation is None:
        return signs.certificate
    both = rotation.old.certificate, rotation.new.certificate
    return signs.certificate + b"".join(each for each in both if each != signs.certificate)


def members(view: View, connected_masters: Collection[str]) -> list[Member]:
    """All who have to go along: masters, of whom these ids are connected, and nodes."""
    masters = [
        Member(NodeRole.MASTER, each.id, each.name, each.id in connected_masters)
        for each in view.scan(MASTERS)
    ]
    nodes = [
        Member(NodeRole.WORKER, each.id, each.name, each.state is NodeState.READY)
        for each in view.scan(NODES)
    ]
    return [*masters, *nodes]


def those_missing(
    view: View, rotation: Rotation, connected_masters: Collection[str]
) -> list[Missing]:
    """Who has not gone along with the present step."""
    return missing(rotation, members(view, connected_masters), list(view.scan(HOLDINGS)))


def begin(tx: Transaction, rotation: Rotation, connected_masters: Collection[str]) -> None:
    """From now on both are trusted. Raises Conflict while another rotation goes on."""
    present = the_rotation(tx)
    if present is not None:
        left = [each.member.name for each in those_missing(tx, present, connected_masters)]
        raise Conflict(
            f"the authority is being replaced already: step {STEPS[present.step]} of {len(STEPS)}"
            f" ({present.step}) {_waits_for(left)}; `orca masters rotate-ca --status` tells how far"
            " it is, `orca masters rotate-ca --force` waits no longer for who is away"
        )
    if the_authority(tx).certificate != rotation.old.certificate:
        raise Conflict("the authority has just been replaced; ask again to replace it once more")
    tx.put(ROTATIONS, rotation)
    _note(tx, rotation, "rotate", rotation.begun_at, ())


def force(tx: Transaction, *, now: float) -> Rotation | None:
    """Wait no longer for who is away. None: no rotation goes on."""
    rotation = the_rotation(tx)
    if rotation is not None and not rotation.forced_at:
        rotation = replace(rotation, forced_at=now)
        tx.put(ROTATIONS, rotation)
    return rotation


def hold(tx: Transaction, holding: Holding) -> None:
    """A master or a worker says what it has; of no interest while no rotation goes on."""
    if the_rotation(tx) is not None and tx.get(HOLDINGS, holding.role, holding.id) != holding:
        tx.put(HOLDINGS, holding)


def advance(tx: Transaction, those: Sequence[Missing], *, now: float) -> Rotation | None:
    """One step on, if nobody is waited for. `those`: who has not gone along with the present one.

    Returns the rotation as it was before the step; None: there was none to take.
    """
    rotation = the_rotation(tx)
    if rotation is None or waited_for(rotation, those, now):
        return None
    behind = tuple(each.member.name for each in those)
    if rotation.step is RotationStep.TRUSTING:
        tx.put(AUTHORITY, replace(rotation.new, since=now))
        tx.put(ROTATIONS, replace(rotation, step=RotationStep.RENEWING, step_since=now))
        _note(tx, rotation, "renew", now, behind)
        return rotation
    signs = the_authority(tx)
    tx.put(AUTHORITY, replace(signs, previous=rotation.old.certificate, left_behind=behind))
    tx.delete(ROTATIONS, "ca")
    for holding in list(tx.scan(HOLDINGS)):
        tx.delete(HOLDINGS, holding.role, holding.id)
    for grant in list(tx.scan(JOIN_GRANTS)):
        if grant.created_at < signs.since:  # its token names an authority that is none any more
            tx.delete(JOIN_GRANTS, grant.public_key)
    _note(tx, rotation, "rotated", now, behind)
    return rotation


def _waits_for(names: Sequence[str]) -> str:
    if not names:
        return "is about to end"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"waits for {', '.join(names[:MOST_NAMES])}{more}"


def _note(
    tx: Transaction, rotation: Rotation, verb: str, now: float, behind: tuple[str, ...]
) -> None:
    trail(
        tx,
        actor=rotation.actor,
        action=f"authority.{verb}",
        resource=RESOURCE,
        now=now,
        fingerprint=rotation.new_fingerprint,
        left_behind=len(behind),
    )
