"""A real log on a real disk, killed at its calls that change files: what was acknowledged stays.

Every call counts that writes, syncs, renames, removes, cuts, or makes a file or folder. Without
`--long` a sample of the calls, with it each of them. Replay one: `--seed <call>`.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.lives import KILLED, Lives, Told, lives
from totals import Totals

KINDS = ("solo", "raft", "growing")
COUNT = 30
SAMPLE = 40


@pytest.fixture
def many(shim_library: Path, tmp_path: Path) -> Iterator[Lives]:
    with lives(shim_library, tmp_path) as running:
        yield running


def calls_of(many: Lives, kind: str) -> int:
    """How many a whole life makes."""
    told = many.live("whole", kind, count=COUNT)
    assert told.is_whole
    assert told.kept == list(range(1, COUNT + 1))
    return many.shim.get("calls")


def chosen(calls: int, one: int | None, is_long: bool) -> list[int]:
    if one is not None:
        return [one]
    every = range(1, calls + 1)
    return list(every) if is_long else random.Random(calls).sample(every, min(SAMPLE, calls))


def check_found(told: Told, last: int, at: str) -> None:
    """All numbers up to the last that was known to be kept, and at most the one under way after it."""
    assert told.found is not None, f"{at}: {told.failed or told.status}"
    assert told.found in ([*range(1, last + 1)], [*range(1, last + 2)]), at


def last_of(told: Told, before: int = 0) -> int:
    """What surely is there after it."""
    return max([before, *(told.found or []), *told.kept])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("is_torn", [False, True], ids=["killed", "torn"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_log_killed_at_any_call_keeps_what_it_acknowledged_co_25(
    many: Lives, kind: str, is_torn: bool, one_seed: int | None, is_long: bool, totals: Totals
) -> None:
    """The next life is killed too, at a call by chance, often while it still recovers."""
    kills = 0
    for call in chosen(calls_of(many, kind), one_seed, is_long):
        at, again = f"{kind}, --seed {call}", random.Random(call).randint(1, 60)
        first = many.live("one", kind, count=COUNT, kill_at=call, is_torn=is_torn)
        second = many.live("one", kind, count=COUNT, kill_at=again, is_torn=is_torn)
        if second.found is not None:
            check_found(second, last_of(first), at)
        third = many.live("one", kind, count=3)
        check_found(third, last_of(second, last_of(first)), at)
        assert third.is_whole, at
        kills += (first.status == KILLED) + (second.status == KILLED)
        shutil.rmtree(many.folder / "one")
    assert kills > 0
    totals("logs killed at a system call", kills=kills, lost=0, half=0)


def test_a_compaction_in_the_wrong_order_is_found(many: Lives) -> None:
    """Without this the tests above could be blind."""
    for call in range(1, calls_of(many, "wrong")):
        first = many.live("one", "wrong", count=COUNT, kill_at=call)
        second = many.live("one", "wrong", count=3)
        if second.found is None or len(second.found) < last_of(first):
            return
        shutil.rmtree(many.folder / "one")
    pytest.fail("no call was the wrong one to die at")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sync_that_fails_once_ends_the_process_and_loses_nothing_co_26(
    many: Lives, kind: str, one_seed: int | None, is_long: bool, totals: Totals
) -> None:
    failures = 0
    for call in chosen(calls_of(many, kind), one_seed, is_long):
        at = f"{kind}, --seed {call}"
        first = many.live("one", kind, count=COUNT, fail_at=call)
        failed = many.shim.get("failed")
        assert first.is_whole == (not failed), f"{at}: it went on after a sync that failed"
        assert first.status == failed, at
        second = many.live("one", kind, count=3)
        check_found(second, last_of(first), at)
        assert second.is_whole, at
        failures += failed
        shutil.rmtree(many.folder / "one")
    assert failures > 0
    totals("logs whose sync failed once", failures=failures, lost=0, half=0)
