"""What can be done with the masters: rows say which are wanted, the log's members follow."""

from collections.abc import Sequence

from msgspec.structs import replace

from orca_master.cluster.masters.port import Member
from orca_master.cluster.model import CLUSTER, MASTERS, Master
from orca_master.cluster.operations import the_cluster, use_grant
from orca_master.errors import Conflict, Forbidden, NotFound
from orca_master.state.transaction import Transaction, View
from orca_proto.identity import NodeRole

ASK_AGAIN_SECONDS = 600.0
"""So long the key of joining alone gets the certificate once more."""


def enrol_master(
    tx: Transaction,
    *,
    public_key: str,
    signature: str,
    name: str,
    peers: str,
    request: bytes,
    key: str,
    now: float,
    new_id: str,
) -> Master:
    """Let the holder of a masters' join token in. What is signed is `name` and `peers`, with a space.

    Who asks again soon with the same key, because the answer was lost, is the same master. Raises
    Forbidden with the reason, or Conflict when the name or the address is taken.
    """
    for master in tx.find(MASTERS, "name", name):
        if master.enrolled == key and now < master.joined_at + ASK_AGAIN_SECONDS:
            return master
    use_grant(
        tx,
        public_key=public_key,
        signature=signature,
        name=f"{name} {peers}",
        request=request,
        now=now,
        role=NodeRole.MASTER,
    )
    for master in tx.scan(MASTERS):
        if master.name == name:
            raise Conflict(
                f"a master named {name} exists already: choose another name, or remove the old one"
                f" first with `orca masters remove {name}`"
            )
        if master.peers == peers:
            raise Conflict(f"master {master.name} is already reached at {peers}")
    master = Master(id=new_id, name=name, joined_at=now, peers=peers, enrolled=key)
    tx.put(MASTERS, master)
    return master


def register(tx: Transaction, master: Master) -> None:
    """A master tells where it is reached now. Raises Forbidden for one that was removed."""
    known = tx.get(MASTERS, master.id)
    if known is None:
        raise Forbidden("this master was removed from the cluster: join again in a new folder")
    tx.put(MASTERS, with_history(master, known))


def with_history(master: Master, known: Master) -> Master:
    """What a master says of itself, with what only the cluster says of it."""
    return replace(master, name=known.name, joined_at=known.joined_at, enrolled=known.enrolled)


def found_master(tx: Transaction, master: Master) -> None:
    """The first master of a new cluster; at later starts it is there."""
    if not any(True for _ in tx.scan(MASTERS)):
        tx.put(MASTERS, master)


def raise_version(tx: Transaction) -> None:
    """The cluster's schema version is the lowest of its masters', and never falls."""
    cluster = the_cluster(tx)
    lowest = min((master.schema for master in tx.scan(MASTERS)), default=cluster.schema)
    if lowest > cluster.schema:
        tx.put(CLUSTER, replace(cluster, schema=lowest))


def find_master(view: View, name_or_id: str) -> Master:
    """Raises NotFound."""
    master = view.get(MASTERS, name_or_id)
    if master is not None:
        return master
    named = view.find(MASTERS, "name", name_or_id)
    if not named:
        raise NotFound("master", name_or_id)
    return named[0]


def tolerates(voters: Sequence[Member]) -> int:
    """How many more of these may fail; negative: too many have failed already."""
    alive = sum(voter.is_connected for voter in voters)
    return alive - (len(voters) // 2 + 1)


def check_removal(members: Sequence[Member], id: str, *, force: bool) -> None:
    """Raises Conflict where removing this member would leave the cluster less safe, or nobody.

    `force` accepts less safety, but never the loss of the majority.
    """
    voters = [member for member in members if member.is_voter]
    left = [voter for voter in voters if voter.id != id]
    if len(left) == len(voters):
        return
    if not left:
        raise Conflict("this is the only master: without it there is no cluster")
    before, after = tolerates(voters), tolerates(left)
    if after < 0:
        raise Conflict(
            f"of the {len(left)} masters that would be left too few can be reached:"
            " bring one back first"
        )
    if after < before and not force:
        raise Conflict(
            f"the {len(left)} masters that would be left tolerate {_failures(after)}, now it is"
            f" {_failures(before)}: let another master join first, or insist with --force"
        )


def check_heir(members: Sequence[Member], heir: Master) -> None:
    """Raises Conflict where this master cannot lead."""
    found = next((member for member in members if member.id == heir.id), None)
    if found is None or not found.is_voter:
        raise Conflict(f"{heir.name} is still catching up: it leads nobody before it has a vote")
    if not found.is_connected:
        raise Conflict(f"{heir.name} cannot be reached")


def _failures(count: int) -> str:
    return {0: "no failure", 1: "one failure"}.get(count, f"{count} failures")
