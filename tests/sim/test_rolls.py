"""Rollouts in random histories; and planted faults that these histories find."""

import pytest

from sim.rolls import Rolls
from sim.seeds import share
from sim.virtual_time import run_virtual
from totals import Totals


@pytest.mark.timeout(900)
@pytest.mark.parametrize("masters", [1, 3])
def test_rollouts_keep_their_bounds_tell_why_and_come_to_an_end(
    masters: int, seeds: list[int], totals: Totals
) -> None:
    chosen = share(seeds, 0.3 if masters == 1 else 0.1)
    totals_of = dict.fromkeys(
        ("decisions", "succeeded", "reverted", "superseded", "starts in order", "pinned revisions"),
        0,
    )
    for seed in chosen:
        history = Rolls(seed, masters)
        run_virtual(history.run())
        for name in totals_of:
            totals_of[name] += history.counts[name]
    totals(f"rollouts with {masters} master(s)", histories=len(chosen), **totals_of, violations=0)
