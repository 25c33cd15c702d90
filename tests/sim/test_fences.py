"""Fenced replicas under partitions, stops and kills; and planted faults that these histories find."""

from collections.abc import Callable

import pytest

from orca_common.daemon import causes
from orca_master.cluster.leases import Leases
from orca_master.state.store import Store
from orca_worker import fencing
from sim.fences import Fences
from sim.history import Violation
from sim.seeds import share
from sim.virtual_time import run_virtual
from totals import Totals

PLANTED_SEEDS = 150

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("masters", [1, 3])
def test_nothing_fenced_ever_runs_twice_at_once(
    masters: int, seeds: list[int], totals: Totals
) -> None:
    chosen = share(seeds, 0.25 if masters == 1 else 0.15)
    counts = {"leases extended": 0, "fenced starts": 0, "nodes down": 0}
    for seed in chosen:
        history = Fences(seed, masters)
        run_virtual(history.run())
        for name in counts:
            counts[name] += history.counts[name]
    assert all(counts.values())
    told = {name.replace(" ", "_"): count for name, count in counts.items()}
    totals(f"fenced replicas with {masters} master(s)", histories=len(chosen), **told, violations=0)


def a_lease_counts_from_its_arrival(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fencing, "lease_until", lambda _, seconds, arrived: arrived + seconds)


def beats_are_acknowledged_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    async def fresh(store: Store) -> object:
        return store.state

    patch.setattr(Store, "fresh", fresh)


def replicas_are_replaced_as_soon_as_the_node_is_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "left", lambda self, _: 0.0)


def a_new_leader_knows_of_no_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "begin", lambda self: setattr(self, "_since", -100.0))


PLANTED: list[tuple[Plant, int, int]] = [
    (a_lease_counts_from_its_arrival, 1, 100),
    (beats_are_acknowledged_without_a_quorum, 3, 1),
    (replicas_are_replaced_as_soon_as_the_node_is_down, 1, 1),
    (a_new_leader_knows_of_no_lease, 3, 1),
]
"""The fault, how many masters there are, and from which seed on it is looked for, to save time."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("plant", "masters", "first"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED]
)
def test_a_planted_fault_of_fencing_is_found(
    plant: Plant, masters: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in [*range(first, PLANTED_SEEDS + 1), *range(1, first)]:
        try:
            run_virtual(Fences(seed, masters).run())
        except Exception as error:  # alone, or in the group of a master that it ended
            found = causes(error)
            assert all(isinstance(each, Violation) for each in found), found
            assert any(word in str(found[0]) for word in ("runs twice", "acknowledges a beat"))
            return
    pytest.fail(f"{PLANTED_SEEDS} histories did not find it")
