"""Random histories of twelve nodes that are lost one by one, many at once, and again and again.

Beyond what `History` checks: no more nodes are given up within a TTL than may be, none before a leader has
led for a TTL, and none because a master was away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from orca_master.app.core import MasterCore
from orca_master.cluster.model import Node, NodeState
from sim.cluster import DOWN_AFTER_SECONDS, SimCluster
from sim.env import SimClock
from sim.history import History

NODES = 12
MOST_AT_ONCE = 3
SLACK_SECONDS = 0.5


@dataclass
class Losses(History):
    fenced: frozenset[str] = frozenset()
    """None: the clock of a master that is away here runs ahead of time itself, and a lease counts by it."""

    _leading_since: dict[MasterCore, float] = field(default_factory=dict)
    _down_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cluster = SimCluster(self.seed, self.masters, NODES)
        for master in self.cluster.masters.all:
            master.watchers.append(self._note_leadership)

    def faults(self) -> Sequence[Callable[[Any], Awaitable[None]]]:
        return (
            Losses.lose_many,
            Losses.lose_many,
            Losses.flap,
            Losses.flap,
            Losses.master_is_away,
            Losses.clocks_jump,
            History.kill_master,
            History.kill_worker,
            History.cut_line,
        )

    async def lose_many(self) -> None:
        """A switch fails: from a third of the nodes to all of them."""
        chance = self.cluster.chance
        lost = chance.sample(self.cluster.workers, chance.randint(4, NODES))
        seconds = chance.uniform(1.0, 5 * DOWN_AFTER_SECONDS)
        self._tell(f"{len(lost)} lines cut at once for {seconds:.1f} s")
        for worker in lost:
            worker.set_cut(True)
            asyncio.get_running_loop().call_later(seconds, worker.set_cut, False)
        await asyncio.sleep(chance.uniform(0.0, seconds))

    async def flap(self) -> None:
        chance, at = self.cluster.chance, 0.0
        worker = chance.choice(self.cluster.workers)
        self._tell(f"{worker.name}: line flaps")
        for number in range(10):
            at += chance.uniform(0.2, 1.5 * DOWN_AFTER_SECONDS)
            asyncio.get_running_loop().call_later(at, worker.set_cut, number % 2 == 0)

    async def master_is_away(self) -> None:
        """Stopped and going on: its clock is ahead of all that it has heard."""
        chance = self.cluster.chance
        master = chance.choice(self.cluster.masters.all)
        if master.core is not None:
            seconds = chance.uniform(1.5, 30.0)
            self._tell(f"{master.name}: away for {seconds:.1f} s")
            cast("SimClock", master.core.env.clock).away += seconds

    async def clocks_jump(self) -> None:
        """Wall clocks, of a master at once, of a worker when it is started again."""
        chance = self.cluster.chance
        master = chance.choice(self.cluster.masters.all)
        if master.core is not None:
            cast("SimClock", master.core.env.clock).offset += chance.uniform(-120.0, 120.0)
        for worker in chance.sample(self.cluster.workers, 3):
            worker.clock_offset = chance.uniform(-600.0, 600.0)
        self._tell(f"{master.name} and three workers: clocks jump")

    async def _note_leadership(self, core: MasterCore) -> None:
        seen = core.store.leadership
        while True:
            if seen.is_leader:
                self._leading_since[core] = self._now()
            seen = await core.store.leadership_change(seen)

    def _check_node(self, core: MasterCore, before: Node | None, after: Node | None) -> None:
        super()._check_node(core, before, after)
        if before is None or after is None or before.state is after.state:
            return
        if after.state is not NodeState.DOWN:
            self._down_at.pop(after.id, None)
        elif core.store.leadership.is_leader:
            self._check_down(core, after)

    def _check_down(self, core: MasterCore, node: Node) -> None:
        led = self._now() - self._leading_since[core]
        self._tell(f"{node.name} is down: {node.state_reason}")
        if led < DOWN_AFTER_SECONDS - SLACK_SECONDS:
            self._violated(f"{node.name} is down, its leader led for {led:.1f} s")
        self._down_at[node.id] = self._now()
        window = self._now() - (DOWN_AFTER_SECONDS - SLACK_SECONDS)
        at_once = sum(at >= window for at in self._down_at.values())
        if at_once > MOST_AT_ONCE:
            self._violated(f"{at_once} nodes were given up at once")
