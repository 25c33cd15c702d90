"""Whether a disk is slow enough for a thread: by what a sync usually takes."""

from orca_master.state.solo.pace import SLOW_SECONDS, Pace


def test_a_disk_is_quick_until_it_has_shown_otherwise():
    assert not Pace().is_slow


def test_a_disk_that_is_always_slow_is_known_to_be():
    pace = Pace()
    for _ in range(50):
        pace.took(2 * SLOW_SECONDS)
    assert pace.is_slow


def test_one_sync_in_ten_that_met_a_busy_disk_does_not_make_it_slow():
    pace = Pace()
    for number in range(200):
        pace.took(0.02 if number % 10 == 0 else SLOW_SECONDS / 5)
        assert not pace.is_slow


def test_a_single_sync_that_a_leader_could_be_missed_for_is_enough():
    pace = Pace()
    for _ in range(100):
        pace.took(SLOW_SECONDS / 5)
    pace.took(0.4)
    assert pace.is_slow


def test_a_disk_that_has_become_quick_again_is_no_longer_slow():
    pace = Pace()
    for _ in range(1000):
        pace.took(1.0)
    for _ in range(100):
        pace.took(SLOW_SECONDS / 5)
    assert not pace.is_slow
