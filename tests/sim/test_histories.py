"""Random histories of a whole cluster. Replay one: `pytest tests/sim --seed 17`."""

import pytest

from sim.history import History
from sim.virtual_time import run_virtual


@pytest.mark.timeout(900)
@pytest.mark.parametrize("masters", [1, 3])
def test_every_history_keeps_what_was_acknowledged_and_converges(
    masters: int, seeds: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Three masters get every second seed: they are slower."""
    chosen = seeds if masters == 1 or len(seeds) == 1 else seeds[::2]
    events = rows = changes = 0
    for seed in chosen:
        history = History(seed, masters)
        run_virtual(history.run())
        events += history.counts["events"]
        rows += history.counts["rows compared"]
        changes += history.counts["task changes"]
    with capsys.disabled():
        print(
            f"\n{len(chosen)} histories of {masters} master(s): {events} requests and faults,"
            f" {changes} task changes, {rows} rows compared, 0 violations"
        )
