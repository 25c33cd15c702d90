"""What a silence means, when it is too many, and how often workers are to speak."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_common.real import SystemClock, real_env
from orca_master.cluster.brake import is_mass_loss, lost_at_once
from orca_master.cluster.pace import Pace
from orca_master.cluster.presence import ARRIVAL_SECONDS, Presence
from orca_master.cluster.standing import Contact, Word, standing

PACE = Pace(1.0, 3.0)


class Clock(SystemClock):
    """Set by hand."""

    at = 100.0

    def monotonic(self) -> float:
        return self.at


@pytest.mark.parametrize(
    ("silent", "ended", "word", "is_over"),
    [
        (0.0, None, Word.READY, False),
        (1.4, None, Word.READY, False),
        (1.5, None, Word.SUSPECT, False),
        (2.9, None, Word.SUSPECT, False),
        (3.0, None, Word.SUSPECT, True),
        (0.1, 0.0, Word.DISCONNECTED, False),
        (2.9, 2.0, Word.DISCONNECTED, False),
        (3.0, 2.0, Word.DISCONNECTED, True),
    ],
)
def test_what_a_silence_means(
    silent: float, ended: float | None, word: Word, is_over: bool
) -> None:
    contact = Contact(100.0 - silent, None if ended is None else 100.0 - ended)
    found = standing(contact, now=100.0, pace=PACE)
    assert (found.word, found.is_over) == (word, is_over)
    assert (found.reason == "") is (word is Word.READY)


def test_who_was_heard_of_and_is_not_just_now_is_doubtful() -> None:
    clock = Clock()
    presence = Presence(replace(real_env(), clock=clock), PACE)
    presence.listen_anew()
    for id in ("well", "silent", "cut"):
        presence.heard(id)
        presence.connected(id, True)
    assert presence.doubtful(nodes=3) == set()
    presence.connected("cut", False)
    assert presence.doubtful(nodes=3) == {"cut"}
    clock.at += 2.0
    presence.heard("well")
    assert presence.doubtful(nodes=3) == {"silent", "cut"}


def test_while_others_arrive_who_has_not_come_yet_waits_for_his_turn() -> None:
    """500 workers whose leader died do not all shake hands within one TTL."""
    clock = Clock()
    presence = Presence(replace(real_env(), clock=clock), PACE)
    presence.listen_anew()
    for number in range(40):
        clock.at += 2.0
        presence.heard(str(number))
        is_over = presence.standing("last", nodes=99).is_over
        assert is_over is (clock.at - 100.0 > ARRIVAL_SECONDS + PACE.ttl)
    assert presence.standing("0", nodes=99).is_over, "who came and fell silent is judged as ever"


def test_nobody_waits_for_those_who_came_before() -> None:
    clock = Clock()
    presence = Presence(replace(real_env(), clock=clock), PACE)
    presence.heard("well")
    presence.listen_anew()
    for _ in range(4):
        clock.at += 1.0
        presence.heard("well")
    assert presence.standing("gone", nodes=2).is_over


def test_a_suspect_is_one_since_half_the_time_was_over() -> None:
    found = standing(Contact(98.0, None), now=100.0, pace=PACE)
    assert (found.age, found.reason) == (0.5, "its worker has said nothing for 2.0 s")


@pytest.mark.parametrize(
    ("lost", "nodes", "is_mass"),
    [(1, 1, False), (3, 3, False), (3, 4, False), (4, 4, True), (4, 15, True), (4, 16, False)],
)
def test_more_than_three_and_more_than_a_quarter(lost: int, nodes: int, is_mass: bool) -> None:
    silent = [10.0 + number * 0.1 for number in range(lost)]
    assert is_mass_loss(silent[:1], silent, nodes=nodes, ttl=3.0) is is_mass


def test_those_that_were_given_up_already_count_too() -> None:
    missing = [10.0, 10.1, 10.2, 12.9, 12.95]
    assert is_mass_loss([12.9, 12.95], missing, nodes=8, ttl=3.0)


def test_what_was_lost_one_by_one_is_no_mass_loss() -> None:
    missing = [10.0 + 2.0 * number for number in range(10)]
    assert lost_at_once(missing, missing, 3.0) == 2
    assert not is_mass_loss(missing[5:6], missing, nodes=10, ttl=3.0)


def test_what_was_held_is_not_given_up_all_at_once() -> None:
    """Two losses of three nodes each, half a minute apart, held for a third that is over."""
    due = [10.0, 10.1, 10.2, 40.0, 40.1, 40.2]
    assert lost_at_once(due, due, 3.0) == 3
    assert is_mass_loss(due, due, nodes=12, ttl=3.0)


def test_a_loss_without_anybody_to_give_up_is_none() -> None:
    assert lost_at_once([], [1.0, 1.1, 1.2, 1.3], 3.0) == 0


@given(
    missing=st.lists(st.integers(0, 300).map(lambda n: n / 10), max_size=20),
    due=st.sets(st.integers(0, 19)),
)
def test_the_most_within_a_window_is_what_counting_says(
    missing: list[float], due: set[int]
) -> None:
    judged = [missing[place] for place in due if place < len(missing)]
    windows = [[m for m in missing if start <= m <= start + 3.0] for start in missing]
    expected = max((len(w) for w in windows if set(w) & set(judged)), default=0)
    assert lost_at_once(judged, missing, 3.0) == expected


def test_beats_and_ttl_grow_mildly_and_together() -> None:
    assert PACE.among(0) == PACE.among(250) == PACE
    assert PACE.among(500) == Pace(1.5, 4.5)
    assert PACE.among(1000) == Pace(2.0, 6.0)
    for nodes in range(1, 20_000, 97):
        pace = PACE.among(nodes)
        assert pace.ttl == 3 * pace.beat
        assert nodes / pace.beat <= max(250, 16 * nodes**0.5)
