"""Configurations: the rules of one change, their bytes, and which one is in force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_master.errors import Conflict
from orca_master.state.raft.members import (
    MAX_FORMER,
    MAX_MEMBERS,
    NOBODY,
    Configuration,
    Former,
    History,
    Member,
    command_of,
    configuration_in,
    decode_configuration,
    encode_configuration,
    with_address,
    with_learner,
    with_voter,
    without,
)

ONE = Configuration(members=(Member("m1", "h:1", is_voter=True),))
TWO = with_voter(with_learner(ONE, "m2", "h:2"), "m2")


def test_a_learner_is_added_promoted_moved_and_removed() -> None:
    learner = with_learner(ONE, "m2", "h:2")
    assert learner.voters == {"m1"}
    assert learner.ids == {"m1", "m2"}
    assert with_voter(learner, "m2").voters == {"m1", "m2"}
    moved = with_address(learner, "m2", "h:3")
    assert moved.addresses_beside("m1") == {"m2": "h:3"}
    assert moved.voters == {"m1"}
    left = without(learner, "m2", by="m1")
    assert left.members == ONE.members
    assert left.removed_by("m2") == "m1"
    assert left.removed_by("m1") is None


def test_what_makes_no_sense_is_refused_with_a_reason() -> None:
    for words, change in {
        "m1 is a member already": lambda: with_learner(ONE, "m1", "h:9"),
        "m2 is a voter already": lambda: with_voter(TWO, "m2"),
        "m9 is no member; members are m1, m2": lambda: with_voter(TWO, "m9"),
        "m9 is no member": lambda: without(TWO, "m9", by="m1"),
        "m1 is the last voter": lambda: without(ONE, "m1", by="m1"),
        "m2 was removed and cannot come back": lambda: with_learner(
            without(TWO, "m2", by="m1"), "m2", "h:2"
        ),
        "has the address h:2 already": lambda: with_address(TWO, "m2", "h:2"),
        "no address of the form host:port": lambda: with_address(TWO, "m2", "nowhere"),
        "length": lambda: with_learner(ONE, "m" * 300, "h:1"),
    }.items():
        with pytest.raises(Conflict, match=words):
            change()


def test_members_and_former_ones_are_bounded() -> None:
    full = ONE
    for number in range(2, MAX_MEMBERS + 1):
        full = with_learner(full, f"m{number}", "h:1")
    with pytest.raises(Conflict):
        with_learner(full, "m0", "h:1")
    former = tuple(Former(f"f{n}", "m1") for n in range(MAX_FORMER))
    left = without(Configuration(members=TWO.members, former=former), "m2", by="m1")
    assert len(left.former) == MAX_FORMER
    assert left.removed_by("f0") is None
    assert left.removed_by("m2") == "m1"


@given(st.binary(max_size=80))
def test_random_bytes_are_a_configuration_or_refused(raw: bytes) -> None:
    try:
        configuration = decode_configuration(raw)
    except ValueError:
        return
    assert decode_configuration(encode_configuration(configuration)) == configuration


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",
        b"\x93\x01\xdd\xff\xff\xff\xff",
        b"\x93\x02\x90\x90",
        encode_configuration(TWO) + b"\x00",
        b"\x93\x01\x92" + b"\x93\xa1a\xa3h:1\xc3" * 2 + b"\x90",
        b"\x93\x01\x91\x93\xa1a\xa3abc\xc3\x90",
    ],
    ids=["nothing", "huge", "huge inside", "newer", "longer", "twice", "no address"],
)
def test_bytes_of_no_configuration_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="no list of members"):
        decode_configuration(raw)


def test_a_command_brings_its_configuration_and_other_kinds_bring_none() -> None:
    assert configuration_in(command_of(TWO)) == TWO
    assert configuration_in(b"\x00anything") is None


def test_the_last_configuration_in_the_log_is_in_force_and_rolls_back_when_it_is_cut_off() -> None:
    history = History()
    assert history.in_force is NOBODY
    history.begin_at(10, ONE)
    history.add(12, TWO)
    assert (history.in_force, history.before, history.index) == (TWO, ONE, 12)
    assert history.at(11) == ONE
    assert history.count_after(10) == 1
    history.cut_from(13)
    assert history.in_force == TWO
    history.cut_from(12)
    assert (history.in_force, history.index) == (ONE, 10)


def test_a_snapshot_replaces_what_was_before_it_and_keeps_what_came_after() -> None:
    history = History()
    history.begin_at(2, ONE)
    history.add(5, TWO)
    history.add(9, ONE)
    history.begin_at(7, TWO)
    assert (history.at(8), history.in_force) == (TWO, ONE)
    history.forget_before(9)
    assert history.count_after(0) == 1
    assert history.in_force == ONE
