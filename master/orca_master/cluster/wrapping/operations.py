"""What can be done with the key-encryption key: replace it, step by step; see `identity.wrapping.model`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from orca_master.audit.operations import trail
from orca_master.cluster.masters.port import Member
from orca_master.cluster.model import MASTERS
from orca_master.errors import Conflict
from orca_master.identity.wrapping.model import (
    KEY_HOLDINGS,
    WRAPPING,
    KeyHolding,
    Wrapping,
    WrappingStep,
    the_wrapping,
)
from orca_master.state.transaction import Transaction, View

RESOURCE = "wrapping-key"


@dataclass(frozen=True, slots=True)
class Lacking:
    """A master that has not on its disk what the present step asks for."""

    id: str
    name: str
    reason: str


def begin(tx: Transaction, current: str, *, actor: str, now: float) -> None:
    """From now on the leader makes another key and hands it out. Raises Conflict."""
    present = the_wrapping(tx)
    if present is not None and present.step is not WrappingStep.DONE:
        raise Conflict(
            f"the key-encryption key is being replaced already ({present.step}):"
            " `orca secrets rotate-key --wrapping --status` tells how far it is"
        )
    since = present.since if present is not None else 0.0
    tx.put(WRAPPING, Wrapping(current, WrappingStep.HANDING, actor, now, since=since))
    _note(tx, actor, "rotate", now)


def made(tx: Transaction, id: str) -> None:
    """The leader has this key on its disk, and hands it out. It takes the place of one that was made by a
    leader before: nothing is wrapped with that yet."""
    present = the_wrapping(tx)
    if present is not None and present.step is WrappingStep.HANDING:
        tx.put(WRAPPING, replace(present, coming=id))


def hold(tx: Transaction, holding: KeyHolding) -> None:
    """A master says what it has."""
    if the_wrapping(tx) is not None and tx.get(MASTERS, holding.master) is not None:
        tx.put(KEY_HOLDINGS, holding)


def lacking(view: View, members: Sequence[Member]) -> list[Lacking]:
    """By name. `members`: the log's."""
    present = the_wrapping(view)
    if present is None:
        return []
    connected = {member.id for member in members if member.is_connected}
    found = []
    for master in sorted(view.scan(MASTERS), key=lambda master: master.name):
        holding = view.get(KEY_HOLDINGS, master.id)
        has = set(holding.keys) if holding is not None else set[str]()
        is_done = present.step is WrappingStep.DONE
        if has == set(present.needed) or (has > set(present.needed) and not is_done):
            continue
        reason = "has not said that it has the key"
        if has > set(present.needed):
            reason = "has not said that it has deleted the old key"
        if holding is not None and holding.is_given:
            reason = given_elsewhere(master.name)
        elif master.id not in connected:
            reason = "is not connected; it gets the key when it is back"
        found.append(Lacking(master.id, master.name, reason))
    return found


def given_elsewhere(name: str) -> str:
    return (
        f"{name} has its key from `kek_file` or a credential of the service manager, where it cannot keep"
        " another one: copy that file to `kek` in its data folder (mode 0600), start it without the"
        " setting, and ask again"
    )


def may_wrap(view: View, members: Collection[Member]) -> bool:
    """Whether all who are there have the new key, and so many that no quorum is without it."""
    present = the_wrapping(view)
    if present is None or present.step is not WrappingStep.HANDING or not present.coming:
        return False
    having = {each.master for each in view.scan(KEY_HOLDINGS) if present.coming in each.keys}
    voters = {member.id for member in members if member.is_voter}
    present_ones = {member.id for member in members if member.is_connected}
    return present_ones <= having and 2 * len(voters & having) > len(voters)


def switch(tx: Transaction, coming: str, *, now: float) -> bool:
    """From now on this key wraps. False: it is not the one that was handed out (any more)."""
    present = the_wrapping(tx)
    if present is None or present.step is not WrappingStep.HANDING or present.coming != coming:
        return False
    switched = replace(
        present,
        step=WrappingStep.WRAPPING,
        current=coming,
        coming="",
        previous=present.current,
        since=now,
    )
    tx.put(WRAPPING, switched)
    _note(tx, present.actor, "wrap", now)
    return True


def finish(tx: Transaction, current: str, *, now: float) -> None:
    """Nothing is left that the previous key has wrapped: it may be deleted."""
    present = the_wrapping(tx)
    if present is None or present.step is not WrappingStep.WRAPPING or present.current != current:
        return
    tx.put(WRAPPING, replace(present, step=WrappingStep.DONE, previous=""))
    for holding in list(tx.scan(KEY_HOLDINGS)):
        if tx.get(MASTERS, holding.master) is None:
            tx.delete(KEY_HOLDINGS, holding.master)
    _note(tx, present.actor, "rotated", now)


def give_up(tx: Transaction, why: str, *, now: float) -> None:
    """Back to the key that wraps, as long as nothing is wrapped with another one."""
    present = the_wrapping(tx)
    if present is not None and present.step is WrappingStep.HANDING:
        tx.put(WRAPPING, replace(present, step=WrappingStep.DONE, coming="", given_up=why))
        _note(tx, present.actor, "given-up", now)


def _note(tx: Transaction, actor: str, verb: str, now: float) -> None:
    trail(tx, actor=actor, action=f"wrapping-key.{verb}", resource=RESOURCE, now=now)
