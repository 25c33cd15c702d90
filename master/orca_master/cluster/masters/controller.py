"""Makes the log's members what the masters' rows say, one change at a time. Runs on the leader only."""

from orca_common.logs import get_logger
from orca_master.cluster.masters.operations import raise_version
from orca_master.cluster.masters.port import Member, Membership
from orca_master.cluster.model import MASTERS
from orca_master.errors import Conflict, OutcomeUnknown
from orca_master.state.store import Store

LOOK_EVERY_SECONDS = 0.25
NEAR_ENTRIES = 1000
"""A learner this near may be promoted; the log checks again."""

log = get_logger("masters")


class MastersController:
    def __init__(self, store: Store, membership: Membership) -> None:
        self._store = store
        self._membership = membership

    async def run(self) -> None:
        with self._store.follow(MASTERS) as follower:
            while True:
                await follower.next(LOOK_EVERY_SECONDS)
                try:
                    await self.step()
                except (Conflict, OutcomeUnknown) as error:
                    log.info("the masters are not changed yet", reason=error.message)

    async def step(self) -> None:
        """At most one change. Raises NotLeader, Conflict, OutcomeUnknown."""
        if not self._store.state.count(MASTERS):
            return  # the cluster is just being founded
        await self._store.update(raise_version)
        wanted = {master.id: master for master in self._store.state.scan(MASTERS)}
        members = {member.id: member for member in self._membership.members()}
        for id, master in wanted.items():
            member = members.get(id)
            if member is None and master.peers:
                log.info("a master joins", name=master.name, id=id, address=master.peers)
                await self._membership.add(id, master.peers)
                return
            if member is not None and master.peers not in ("", member.address):
                log.info("a master has moved", name=master.name, id=id, address=master.peers)
                await self._membership.readdress(id, master.peers)
                return
        for id in members.keys() - wanted.keys():
            log.info("a master leaves", id=id)
            await self._membership.remove(id)
            return
        for id, member in members.items():
            if _may_vote(member):
                await self._membership.promote(id)
                log.info("a master votes now", name=wanted[id].name, id=id)
                return


def _may_vote(member: Member) -> bool:
    is_near = member.behind is not None and member.behind <= NEAR_ENTRIES
    return not member.is_voter and member.is_connected and is_near
