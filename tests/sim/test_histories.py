"""Random histories of a whole cluster. Replay one: `pytest tests/sim --seed 17`."""

import pytest

from sim.history import History
from sim.virtual_time import run_virtual


def test_every_history_keeps_what_was_acknowledged_and_converges(
    seeds: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    events = rows = changes = 0
    for seed in seeds:
        history = History(seed)
        run_virtual(history.run())
        events += history.counts["events"]
        rows += history.counts["rows compared"]
        changes += history.counts["task changes"]
    with capsys.disabled():
        print(
            f"\n{len(seeds)} histories: {events} requests and faults,"
            f" {changes} task changes, {rows} rows compared, 0 violations"
        )
