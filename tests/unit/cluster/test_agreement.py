"""Masters that hold different states find out. FAULTS CO-35 is here."""

import asyncio

import pytest

from orca_master.cluster.masters.agreement import AgreementWatch, Diverged
from orca_master.cluster.masters.port import Member
from orca_master.errors import NotReady
from orca_master.state.marks import Marks

SAME, OTHER = b"\1" * 32, b"\2" * 32


class StoreWith:
    def __init__(self, marks: Marks) -> None:
        self.marks = marks


class Voters:
    def __init__(self, count: int) -> None:
        self._count = count

    def members(self) -> tuple[Member, ...]:
        return tuple(Member(f"m{n}", f"h:{n}", True) for n in range(self._count))


class OthersWith:
    """None: cannot be asked."""

    def __init__(self, **marks: Marks | None) -> None:
        self._marks = marks
        self.asked = 0

    def addresses(self) -> dict[str, str]:
        return {name: f"{name}:1" for name in self._marks}

    async def marks(self, name: str) -> Marks:
        self.asked += 1
        marks = self._marks[name]
        if marks is None:
            raise NotReady("away")
        return marks


def a_watch(mine: Marks, **others: Marks | None) -> AgreementWatch:
    return AgreementWatch(StoreWith(mine), Voters(len(others) + 1), OthersWith(**others))  # type: ignore[arg-type]


async def test_equal_states_agree_co_35() -> None:
    watch = a_watch({1000: SAME}, a={1000: SAME}, b={1000: SAME})
    await watch.compare()
    assert watch.doubts == []


async def test_the_odd_one_stops_and_says_so_co_35() -> None:
    with pytest.raises(Diverged, match="at version 1000 is not what the majority"):
        await a_watch({1000: OTHER}, a={1000: SAME}, b={1000: SAME}).compare()


async def test_the_others_go_on_co_35() -> None:
    watch = a_watch({1000: SAME}, a={1000: SAME}, b={1000: OTHER})
    await watch.compare()
    assert watch.doubts == []


async def test_without_a_majority_nobody_is_accused_but_it_is_shown() -> None:
    watch = a_watch({1000: SAME}, a={1000: OTHER}, b=None)
    await watch.compare()
    assert watch.doubts == ["masters hold different states at version 1000"]


async def test_a_master_that_was_away_is_compared_with_later() -> None:
    others = OthersWith(a={1000: SAME}, b=None)
    watch = AgreementWatch(StoreWith({1000: SAME}), Voters(3), others)  # type: ignore[arg-type]
    await watch.compare()
    others._marks["b"] = {1000: OTHER}
    others._marks["a"] = {1000: OTHER}
    with pytest.raises(Diverged):
        await watch.compare()


async def test_it_compares_by_itself_once_there_is_something_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orca_master.cluster.masters.agreement.COMPARE_EVERY_SECONDS", 0.001)
    others = OthersWith(a={1000: SAME}, b={1000: SAME})
    store = StoreWith({})
    watch = AgreementWatch(store, Voters(3), others)  # type: ignore[arg-type]
    work = asyncio.ensure_future(watch.run())
    await asyncio.sleep(0.02)
    assert others.asked == 0
    store.marks = {1000: OTHER}
    async with asyncio.timeout(60):
        with pytest.raises(Diverged):
            await work
