"""Rate limits: what is counted, told and refused."""

from dataclasses import replace

import pytest

from orca_common.env import Env
from orca_common.real import real_env
from orca_master.errors import RateLimited
from orca_master.http import rates
from orca_master.http.rates import Limit, Rate, Rates


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1_000_000_040.5

    def env(self) -> Env:
        return replace(real_env(), clock=self)

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def boottime(self) -> float:
        return self.at

    def thread_time(self) -> float:
        return 0.0


def test_a_limit_is_told_and_held_until_the_minute_ends() -> None:
    hand = Hand()
    counted = Rates(hand.env(), {Rate.OPS: Limit(2, burst=1)})
    left = [counted.count(Rate.OPS, "ann")["X-RateLimit-Remaining"] for _ in range(3)]
    assert left == ["1", "0", "0"]
    with pytest.raises(RateLimited, match="ask again in 40 s") as refused:
        counted.count(Rate.OPS, "ann")
    assert refused.value.headers == {
        "X-RateLimit-Limit": "2",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1000000080",
        "Retry-After": "40",
    }
    assert counted.count(Rate.OPS, "bob")["X-RateLimit-Remaining"] == "1"
    hand.at = 1_000_000_080.0
    assert counted.count(Rate.OPS, "ann")["X-RateLimit-Remaining"] == "1"


def test_what_has_no_limit_is_not_counted() -> None:
    assert Rates(Hand().env(), {}).count(Rate.OPS, "ann") == {}


def test_many_callers_cost_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_CALLERS", 10)
    counted = Rates(Hand().env(), {Rate.AUTH: Limit(3)})
    for caller in range(13):
        counted.count(Rate.AUTH, f"10.0.0.{caller}")
    with pytest.raises(RateLimited):
        counted.count(Rate.AUTH, "10.9.9.9")
    counted.count(Rate.AUTH, "10.0.0.1")
