"""A random history in which masters join, are promoted, removed, wiped and moved, besides all the rest.

What must be true of every history must be true of these, and

- entries that anybody knows to be committed are the same on everybody,
- a leader has at most one configuration that is not committed, and brings none before it has
  committed an entry of its own term,
- one committed configuration differs from the next by at most one voter, and so does that of a new
  leader from the last one committed before: no two majorities can do without each other,
- at the end every member has the state, and whoever was removed and knows a member has noticed.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from orca_master.errors import Conflict, NotLeader, OutcomeUnknown, StorageFull
from orca_master.state.log import LogFailed
from orca_master.state.raft import RaftLog
from orca_master.state.raft.codec import Append, Message, Piece
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import Configuration, configuration_in
from sim.raft.history import CLIENT_SECONDS, History
from sim.raft.node import SimNode, address_of

MOST_NODES = 6
REFUSALS = (Conflict, NotLeader, StorageFull, OutcomeUnknown, LogFailed, TimeoutError)
UNNOTICED_SECONDS = 1.5
"""So long a leader may take a master that is gone for one that answers."""


@dataclass
class MemberHistory(History):
    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_at_a_time = asyncio.Lock()
        self._gone: set[str] = set()
        self._committed: dict[int, tuple[int, bytes]] = {}
        self._voters: list[tuple[int, int, frozenset[str]]] = []
        """(index, term, voters) of every configuration that was committed."""
        self._read_up_to: dict[tuple[str, int], int] = {}

    def _faults(self) -> list[Callable[[Any], Awaitable[None]]]:
        return [*super()._faults(), *MEMBER_FAULTS]

    # What happens to the members.

    async def join(self) -> None:
        async with self._one_at_a_time:
            if len(self.nodes) < MOST_NODES:
                await self._let_join()

    async def _let_join(self) -> None:
        name = f"m{next(self._born)}"
        self._tell(f"{name}: joins")
        node = SimNode(name, self.wires, self.chance, peers=[n.name for n in self.nodes])
        node.on_state = self._check_state
        self.nodes.append(node)
        await self._start(node)
        if not await self._ask(lambda log: log.add_learner(name, address_of(name)), tries=3):
            return
        if self.chance.random() < 0.85:
            await asyncio.sleep(self.chance.uniform(0, 0.4))
            self._tell(f"{name}: is promoted")
            await self._ask(lambda log: log.promote(name), tries=6)

    async def promote(self) -> None:
        async with self._one_at_a_time:
            node = self.chance.choice(self.nodes)
            self._tell(f"{node.name}: may be promoted")
            await self._ask(lambda log: log.promote(node.name))

    async def remove(self) -> None:
        async with self._one_at_a_time:
            voters = self._newest_voters()
            leader = self.last_leader
            if len(voters) < (2 if self.chance.random() < 0.2 else 3):
                return
            name = leader if leader and self.chance.random() < 0.4 else self.chance.choice(voters)
            if self.chance.random() < 0.3 and name != leader:
                self._tell(f"{name}: is cut off and will not hear of its removal")
                for node in self.nodes:
                    if node.name != name:
                        self.wires.cut(name, node.name)
            self._tell(f"{name}: is removed")
            await self._ask(lambda log: log.remove(name), tries=2)

    async def move(self) -> None:
        async with self._one_at_a_time:
            name = self.chance.choice(self.nodes).name
            address = f"{name}.moved:{self.chance.randint(1, 9999)}"
            self._tell(f"{name}: moves to {address}")
            await self._ask(lambda log: log.change_address(name, address))

    async def change_twice(self) -> None:
        """Two changes are asked for at once; one of them must wait."""
        async with self._one_at_a_time:
            leader = self._leader_or_any()
            if leader.log is None or not leader.is_up:
                return
            self._tell(f"{leader.name}: is asked for two changes at once")
            changes = [
                leader.log.change_address(member.id, f"{member.id}.again:{number}")
                for number, member in enumerate(leader.log.members, self.chance.randint(1, 9999))
            ]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLIENT_SECONDS):
                    await asyncio.gather(*changes, return_exceptions=True)

    async def change_when_elected(self) -> None:
        """A new leader is asked for a change again and again from its first moment on."""
        async with self._one_at_a_time:
            self._tell("a new leader will be asked for a change at once")
            before = {node.name for node in self.nodes if _leads(node)}
            until = self._now() + CLIENT_SECONDS
            await self.isolate_leader()
            while self._now() < until:
                await asyncio.sleep(0.0005)
                for node in self.nodes:
                    if node.log is not None and _leads(node) and node.name not in before:
                        address = f"{node.name}.first:{self.chance.randint(1, 9999)}"
                        with contextlib.suppress(*REFUSALS):
                            async with asyncio.timeout(CLIENT_SECONDS):
                                await node.log.change_address(node.name, address)
                                until = 0.0
            self.wires.heal()

    async def change_while_cut_off(self) -> None:
        """A leader appends a change that it cannot commit: others will cut it off its log, or not."""
        async with self._one_at_a_time:
            leader = next((n for n in self.nodes if n.name == self.last_leader and n.is_up), None)
            if leader is None or leader.log is None or leader.name in self._down:
                return
            heard = self.chance.choice([None, *(n.name for n in self.nodes if n is not leader)])
            self._tell(f"{leader.name}: only {heard or 'nobody'} hears it, and it changes members")
            for node in self.nodes:
                if node is not leader and node.name != heard:
                    self.wires.cut(leader.name, node.name)
            target = self.chance.choice([*leader.log.members]).id
            change = self.chance.choice((leader.log.remove, leader.log.promote))
            with contextlib.suppress(*REFUSALS):
                async with asyncio.timeout(CLIENT_SECONDS):
                    await change(target)
            await asyncio.sleep(self.chance.uniform(0.0, 1.0))
            self.wires.heal()

    async def wipe(self) -> None:
        """Its disk is lost. It comes back under a new id, and the old one is removed."""
        async with self._one_at_a_time:
            node = self.chance.choice(self.nodes)
            if node.name in self._down or not self._can_lose(node.name):
                return
            self._tell(f"{node.name}: its disk is lost")
            self._gone.add(node.name)
            self.nodes.remove(node)
            self._fatal.pop(node.name, None)
            await node.stop(power_loss=True)
            await asyncio.sleep(UNNOTICED_SECONDS)
            await self._ask(lambda log: log.remove(node.name), tries=3)
            await self._let_join()

    def _can_lose(self, name: str) -> bool:
        """Whether in every configuration that may still come into force a majority is left."""
        lost = self._gone | {name}
        for node in self.nodes:
            if node.log is None or not hasattr(node.log, "_journal"):
                return False
            for _, configuration in node.log._journal.members._places:
                voters = configuration.voters
                if voters and len(voters - lost) <= len(voters) // 2:
                    return False
        return True

    def _newest_voters(self) -> list[str]:
        leader = next((n for n in self.nodes if n.name == self.last_leader and n.is_up), None)
        if leader is None or leader.log is None:
            return []
        return sorted(m.id for m in leader.log.members if m.is_voter)

    async def _ask(self, change: Callable[[RaftLog], Awaitable[None]], *, tries: int = 1) -> bool:
        for _ in range(tries):
            node = self._leader_or_any()
            self.counts["changes asked"] += 1
            if node.log is None or not node.is_up:
                continue
            try:
                async with asyncio.timeout(CLIENT_SECONDS):
                    await change(node.log)
            except Conflict:
                self.counts["changes refused"] += 1
            except REFUSALS:
                self.counts["changes failed"] += 1
            else:
                self.counts["changes done"] += 1
                return True
            await asyncio.sleep(self.chance.uniform(0.05, 0.5))
        return False

    # What must stay true.

    def _watch(self, sender: str, receiver: str, message: Message) -> None:
        is_new_leader = isinstance(message, Append | Piece) and message.term not in self._leaders
        if isinstance(message, Append):
            self._check_leader(sender, message.term, is_new=is_new_leader)
        super()._watch(sender, receiver, message)

    def _check_leader(self, name: str, term: int, *, is_new: bool) -> None:
        node = next((n for n in self.nodes if n.name == name), None)
        if node is None or node.log is None:
            return
        engine = node.log._engine
        if not engine.leads or engine.term != term:
            return
        members = node.log._journal.members
        # Before that it does not know which of those that it has found are committed.
        if engine.may_confirm_reads and members.count_after(engine.commit_index) > 1:
            self._violated(f"{name} leads with two configurations that are not committed")
        is_own = node.log._journal.term_at(members.index) == term
        if is_own and not engine.may_confirm_reads and members.index > engine.commit_index:
            self._violated(f"{name} has changed members before it has committed anything")
        self._read_log(node, node.log._journal, engine.commit_index)
        if is_new:
            self._read_logs()
            before = [voters for _, of_term, voters in self._voters if of_term < term]
            if before and len(before[-1] ^ members.in_force.voters) > 1:
                self._violated(
                    f"{name} leads with {sorted(members.in_force.voters)};"
                    f" committed were {sorted(before[-1])}"
                )

    def _read_logs(self) -> None:
        for node in self.nodes:
            if node.is_up and node.log is not None and hasattr(node.log, "_engine"):
                self._read_log(node, node.log._journal, node.log._engine.commit_index)

    def _read_log(self, node: SimNode, journal: Journal, commit: int) -> None:
        place = (node.name, node.boots)
        first = max(self._read_up_to.get(place, 0), journal.first_index) + 1
        offset = journal.first_index
        for index in range(first, commit + 1):
            command, _, term = journal[index - offset]
            known = self._committed.setdefault(index, (term, command))
            if known != (term, command):
                self._violated(f"{node.name} has another committed entry {index} than others")
            configuration = configuration_in(command)
            if configuration is not None and all(index != place for place, _, _ in self._voters):
                self._note_voters(index, term, configuration.voters)
        self._read_up_to[place] = commit

    def _note_voters(self, index: int, term: int, voters: frozenset[str]) -> None:
        self._voters.append((index, term, voters))
        self._voters.sort()
        self.counts["configurations"] += 1
        for (start, _, one), (end, _, other) in itertools.pairwise(self._voters):
            nothing_is_missing = all(between in self._committed for between in range(start, end))
            if nothing_is_missing and len(one ^ other) > 1:
                self._violated(f"{sorted(one)} is followed by {sorted(other)}")

    def _check_failures(self) -> None:
        super()._check_failures()
        self._read_logs()

    async def _heal_all(self) -> None:
        """And who will never come back is removed."""
        await super()._heal_all()
        for _ in range(100):
            leader = next((n for n in self.nodes if n.is_up and n.name == self.last_leader), None)
            if leader is not None and leader.log is not None:
                left = sorted(self._gone & {m.id for m in leader.log.members})
                if leader.log.leadership.is_leader and not left:
                    return
                for name in left[:1]:
                    await self._ask(lambda log, name=name: log.remove(name))  # type: ignore[misc]
            await asyncio.sleep(0.2)
        self._violated(f"{sorted(self._gone)} cannot be removed")

    def _are_equal(self, leader: SimNode) -> bool:
        assert leader.log is not None
        assert leader.store is not None
        configuration = leader.log._engine.configuration
        version = leader.store.state.version
        for node in self.nodes:
            if node.name in configuration.ids:
                if node.store is None or node.store.state.version != version:
                    return False
            elif (
                node.is_up
                and configuration.removed_by(node.name) is not None
                and self._can_notice(node, leader.name, configuration)
            ):
                return False
        return configuration.ids <= {node.name for node in self.nodes}

    def _can_notice(self, node: SimNode, leader: str, members: Configuration) -> bool:
        """A voter asks everybody for votes; a learner only waits for the leader."""
        assert node.port is not None
        assert node.log is not None
        was_voter = node.name in node.log._journal.members.before.voters
        knows = set(node.port.peers)
        return leader in knows or (was_voter and not members.ids.isdisjoint(knows))


def _leads(node: SimNode) -> bool:
    return node.is_up and node.log is not None and node.log._engine.leads


MEMBER_FAULTS = (
    MemberHistory.join,
    MemberHistory.join,
    MemberHistory.promote,
    MemberHistory.remove,
    MemberHistory.remove,
    MemberHistory.move,
    MemberHistory.change_twice,
    MemberHistory.change_when_elected,
    MemberHistory.change_while_cut_off,
    MemberHistory.change_while_cut_off,
    MemberHistory.wipe,
)
