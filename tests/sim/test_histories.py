"""Random histories of a whole cluster. Replay one: `pytest tests/sim --seed 17`."""

import pytest

from sim.history import History
from sim.seeds import share
from sim.virtual_time import run_virtual
from totals import Totals


@pytest.mark.timeout(900)
@pytest.mark.parametrize("masters", [1, 3])
def test_every_history_keeps_what_was_acknowledged_and_converges(
    masters: int, seeds: list[int], totals: Totals
) -> None:
    """Twice as many as there are seeds. Of three masters, which are slower, the smaller part."""
    chosen = share(seeds, 1.4 if masters == 1 else 0.6)
    events = rows = changes = 0
    for seed in chosen:
        history = History(seed, masters)
        run_virtual(history.run())
        events += history.counts["events"]
        rows += history.counts["rows compared"]
        changes += history.counts["task changes"]
    totals(
        f"cluster with {masters} master(s)",
        histories=len(chosen),
        requests_and_faults=events,
        task_changes=changes,
        rows_compared=rows,
        violations=0,
    )
