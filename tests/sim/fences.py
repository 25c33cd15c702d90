"""Random histories of fenced services: lines that are cut in one direction, longer than a lease, and leaders
that are cut off.

`History` checks that nothing fenced runs twice. Here an acknowledgement is looked at too: when the beat was
sent that it is given for, nobody else may have begun to lead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orca_master.app.core import MasterCore
from orca_proto import worker_pb2 as pb
from sim.cluster import SimCluster
from sim.history import History


@dataclass
class Fences(History):
    """All services are fenced."""

    names: tuple[str, ...] = ("db", "db2")
    fenced: frozenset[str] = frozenset({"db", "db2"})
    _leaders: dict[MasterCore, tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cluster = SimCluster(self.seed, self.masters, 4)
        for master in self.cluster.masters.all:
            master.watchers.append(self._note_leadership)
            master.sends.append(self._check_sent)

    def faults(self) -> Sequence[Callable[[Any], Awaitable[None]]]:
        alone = (Fences.cut_long, Fences.cut_long, Fences.late_answers, Fences.late_answers,
                 History.kill_master, History.kill_worker,
                 History.crash_container)  # fmt: skip
        return (
            alone if self.masters == 1 else (*alone, Fences.cut_leader_off, Fences.cut_leader_off)
        )

    async def cut_long(self) -> None:
        """For up to three leases."""
        worker = self.cluster.chance.choice(self.cluster.workers)
        seconds = self.cluster.chance.uniform(2.0, 30.0)
        self._tell(f"{worker.name}: line cut for {seconds:.1f} s")
        worker.hold(up=True, down=True)
        asyncio.get_running_loop().call_later(seconds, worker.set_cut, False)

    async def late_answers(self) -> None:
        """What the master says comes late, just before the lease ends, and nothing goes up any more."""
        chance, loop = self.cluster.chance, asyncio.get_running_loop()
        worker = chance.choice(self.cluster.workers)
        late = chance.uniform(6.0, 9.8)
        self._tell(f"{worker.name}: answers come {late:.1f} s late, then none")
        worker.hold(up=False, down=True)
        loop.call_later(chance.uniform(0.3, 1.5), lambda: worker.hold(up=True, down=True))
        loop.call_later(late, lambda: worker.hold(up=True, down=False))
        loop.call_later(late + chance.uniform(5.0, 30.0), worker.set_cut, False)

    async def cut_leader_off(self) -> None:
        """From the other masters, not from its workers."""
        wires, chance = self.cluster.masters.wires, self.cluster.chance
        assert wires is not None
        leading = [
            m for m in self.cluster.masters.all if m.core and m.core is self.cluster.masters.leader
        ]
        for master in leading:
            self._tell(f"{master.name}: leads, and is cut off from the others")
            for other in self.cluster.masters.all:
                if other is not master:
                    wires.cut(master.name, other.name)
        await asyncio.sleep(chance.uniform(1.0, 10.0))
        wires.heal()

    async def _note_leadership(self, core: MasterCore) -> None:
        seen = core.store.leadership
        while True:
            if seen.is_leader:
                self._leaders[core] = seen.term, self._now()
            seen = await core.store.leadership_change(seen)

    def _check_sent(self, core: MasterCore, message: pb.FromMaster) -> None:
        if message.WhichOneof("body") != "lease_extended":
            return
        self.counts["leases extended"] += 1
        term, sent_at = self._leaders[core][0], message.lease_extended.sent_at
        for later, since in self._leaders.values():
            if later > term and since < sent_at:
                self._violated(
                    f"a leader of term {term} acknowledges a beat of {sent_at:.3f} s,"
                    f" and term {later} began at {since:.3f} s"
                )
