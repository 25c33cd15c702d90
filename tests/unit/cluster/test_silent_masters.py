"""The nodes whose streams a silent master holds: they get the time to leave it, and no more."""

from typing import cast

from orca_master.cluster.pace import Pace
from orca_master.cluster.presence import LEAVE_SECONDS, Presence
from sim.env import SimClock, sim_env

TTL = 3.0


class Setting:
    """`through` comes through master m2, `here` is the leader's own."""

    def __init__(self) -> None:
        env = sim_env(1)
        self._clock = cast("SimClock", env.clock)
        self.presence = Presence(env, Pace(1.0, TTL))
        for node, master in (("through", "m2"), ("here", None)):
            self.presence.comes_through(node, master)
            self.presence.connected(node, True)
            self.presence.heard(node)

    def silence(self, seconds: float, *, of_master: bool) -> None:
        for _ in range(round(seconds * 10)):
            self._clock.away += 0.1
            if of_master:
                self.presence.master_is_silent("m2")

    def lost(self) -> list[str]:
        nodes = ("through", "here")
        return [node for node in nodes if self.presence.standing(node, nodes=2).is_over]


async def test_who_comes_through_a_master_that_is_silent_is_not_to_blame() -> None:
    on = Setting()
    on.silence(TTL + 0.5, of_master=True)
    assert on.lost() == ["here"]
    on.silence(LEAVE_SECONDS, of_master=True)
    assert on.lost() == ["through", "here"], "by now it would have come through another one"


async def test_a_silent_node_of_a_master_that_is_heard_is_lost_like_any_other() -> None:
    on = Setting()
    on.silence(TTL + 0.5, of_master=False)
    assert on.lost() == ["through", "here"]


async def test_after_a_master_was_silent_its_nodes_have_their_time_again_and_then_no_more() -> None:
    on = Setting()
    on.silence(2.0, of_master=True)
    on.silence(TTL - 0.5, of_master=False)
    assert on.lost() == ["here"]
    on.silence(1.0, of_master=False)
    assert on.lost() == ["through", "here"]


async def test_who_has_left_for_another_master_is_judged_by_that() -> None:
    on = Setting()
    on.silence(1.0, of_master=True)
    on.presence.comes_through("through", "m3")
    on.presence.heard("through")
    on.silence(TTL + 0.5, of_master=True)
    assert on.lost() == ["through", "here"]
