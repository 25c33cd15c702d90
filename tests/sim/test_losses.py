"""Nodes that are lost, many at once or again and again; and planted faults that these histories find."""

from collections.abc import Callable

import pytest

from orca_master.cluster import liveness
from orca_master.cluster.liveness import Liveness
from orca_master.cluster.presence import Presence
from orca_master.services import reconcile
from sim.losses import Losses
from sim.seeds import share
from sim.virtual_time import run_virtual
from totals import Totals

PLANTED_SEEDS = 40

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("masters", [1, 3])
def test_lost_nodes_make_no_storm_and_nothing_runs_twice_in_the_end_cl_33(
    masters: int, seeds: list[int], totals: Totals
) -> None:
    chosen = share(seeds, 0.2 if masters == 1 else 0.05)
    events = downs = 0
    for seed in chosen:
        history = Losses(seed, masters)
        run_virtual(history.run())
        events += history.counts["events"]
        downs += history.counts["nodes down"]
    totals(
        f"lost nodes with {masters} master(s)",
        histories=len(chosen),
        requests_and_faults=events,
        nodes_given_up=downs,
        violations=0,
    )


def all_that_are_lost_are_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(liveness, "is_mass_loss", lambda *_, **__: False)


def a_pause_of_the_master_is_silence_of_the_nodes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Liveness, "_notice_absence", lambda self: None)


def a_new_leader_judges_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Presence, "listen_anew", lambda self: setattr(self, "_since", -100.0))


def both_go_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reconcile, "is_awaited", lambda *_: True)


PLANTED: list[Plant] = [
    all_that_are_lost_are_given_up,
    a_pause_of_the_master_is_silence_of_the_nodes,
    a_new_leader_judges_at_once,
    both_go_on,
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_of_liveness_is_found(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in range(1, PLANTED_SEEDS + 1):
        try:
            run_virtual(Losses(seed).run())
        except Exception:  # a violation, or the product's own refusal to go on
            return
    pytest.fail(f"{PLANTED_SEEDS} histories did not find it")
