"""Random histories of three, five and changing masters. Replay one: `pytest tests/sim/raft --seed 17`."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from sim.raft.history import History
from sim.raft.member_history import MemberHistory
from sim.virtual_time import run_virtual

TESTS = Path(__file__).parents[2]


def share(seeds: list[int], part: float) -> list[int]:
    """So many of them, or more than there are: consecutive ones from the first; one stays one."""
    if len(seeds) == 1:
        return seeds
    return list(range(seeds[0], seeds[0] + round(len(seeds) * part)))


def seconds_of(seed: int) -> float:
    """Most are short: what goes wrong does so soon. Some are long, for snapshots and old files."""
    return 10.0 if seed % 5 == 0 else 4.0


def run_all(histories: Iterable[History], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    number = 0
    for history in histories:
        number += 1
        run_virtual(history.run())
        counts += history.counts
    assert counts["acknowledged"] > 25 * number
    with capsys.disabled():
        print(
            f"\n{number} histories of {what}: {counts['faults']} faults,"
            f" {counts['terms']} terms, {counts['acknowledged']} acknowledged,"
            f" {counts['unknown']} unknown, {counts['changes done']} changes of members,"
            f" {counts['entries applied']} states compared,"
            f" {counts['operations ordered']} operations ordered, 0 violations"
        )


@pytest.mark.timeout(900)
def test_every_history_of_three_masters_keeps_what_raft_promises(
    seeds: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = share(seeds, 2.7)
    run_all((History(seed, seconds=seconds_of(seed)) for seed in chosen), "3 masters", capsys)


@pytest.mark.timeout(600)
def test_every_history_of_five_masters_keeps_what_raft_promises(
    seeds: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = share(seeds, 0.6)
    histories = (History(seed, masters=5, seconds=seconds_of(seed)) for seed in chosen)
    run_all(histories, "5 masters", capsys)


@pytest.mark.timeout(900)
def test_every_history_with_changes_of_members_keeps_what_raft_promises(
    seeds: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = share(seeds, 1.7)
    histories = (MemberHistory(seed, seconds=seconds_of(seed)) for seed in chosen)
    run_all(histories, "changing masters", capsys)


def test_a_history_is_the_same_in_every_process() -> None:
    """Without this a failing seed could not be looked into."""
    script = (
        "from sim.raft.member_history import History, MemberHistory\n"
        "from sim.virtual_time import run_virtual\n"
        "from orca_common.logs import configure_logs; configure_logs(level='critical')\n"
        "for history in (History(1), History(2), MemberHistory(1), MemberHistory(2)):\n"
        "    run_virtual(history.run()); print(history.fingerprint)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "77")
    }
    assert len(outputs) == 1
    assert len(set(outputs.pop().split())) == 4
