"""The log's members, for the cluster: the one place that knows that it is Raft which answers."""

from orca_master.cluster.masters.port import Member
from orca_master.errors import Conflict
from orca_master.state.growing import GrowingLog
from orca_master.state.raft.log import RaftLog
from orca_master.state.raft.members import Member as LogMember
from orca_master.state.raft.standing import Progress


class LogMembership:
    """`cluster.masters.port.Membership`. A master alone is its only member until another is added."""

    def __init__(self, backing: GrowingLog, *, me: str, address: str) -> None:
        self._backing = backing
        self._me = me
        self._address = address

    def members(self) -> tuple[Member, ...]:
        raft = self._backing.raft
        if raft is None:
            return (Member(self._me, self._address, True, True, 0, 0.0),)
        now = raft.progress()
        known = {each.id: each for each in now.members}
        return tuple(
            _described(member, known.get(member.id), now.last_index) for member in raft.members
        )

    async def add(self, id: str, address: str) -> None:
        await (await self._backing.grown()).add_learner(id, address)

    async def promote(self, id: str) -> None:
        await self._log().promote(id)

    async def remove(self, id: str) -> None:
        await self._log().remove(id)

    async def readdress(self, id: str, address: str) -> None:
        if self._backing.raft is None:  # nobody needs to know where one master alone is
            self._address = address
        else:
            await self._backing.raft.change_address(id, address)

    async def transfer(self, to: str | None = None) -> bool:
        return self._backing.raft is not None and await self._backing.raft.transfer(to)

    def _log(self) -> RaftLog:
        if self._backing.raft is None:
            raise Conflict("this master is alone")
        return self._backing.raft


def _described(member: LogMember, progress: Progress | None, last_index: int) -> Member:
    if progress is None:
        return Member(member.id, member.address, member.is_voter)
    return Member(
        member.id,
        member.address,
        member.is_voter,
        progress.is_connected,
        max(0, last_index - progress.match_index),
        progress.heard_seconds,
    )
