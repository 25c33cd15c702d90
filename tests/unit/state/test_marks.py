"""Who is the odd one: a master alone against a majority, and nobody while it is undecided."""

import pytest

from orca_master.state.marks import (
    MARK_EVERY,
    MARKS_KEPT,
    Agreement,
    Marks,
    Verdict,
    mark,
    odd_one_out,
)
from orca_master.state.rows import State
from orca_master.state.table import Schema

A, B, C = b"a", b"b", b"c"


@pytest.mark.parametrize(
    ("mine", "others", "voters", "verdict"),
    [
        ({}, [], 3, Verdict(Agreement.AGREES)),
        ({1000: A}, [{1000: A}, {1000: A}], 3, Verdict(Agreement.AGREES)),
        ({1000: A}, [{2000: B}, {}], 3, Verdict(Agreement.AGREES)),
        ({1000: A}, [{1000: B}, {1000: B}], 3, Verdict(Agreement.ODD, 1000)),
        ({1000: A}, [{1000: A}, {1000: B}], 3, Verdict(Agreement.AGREES)),
        ({1000: A}, [{1000: B}], 3, Verdict(Agreement.UNDECIDED, 1000)),
        ({1000: A}, [{1000: B}, {1000: C}], 3, Verdict(Agreement.UNDECIDED, 1000)),
        ({1000: A}, [{1000: B}] * 2, 5, Verdict(Agreement.UNDECIDED, 1000)),
        ({1000: A}, [{1000: B}] * 3, 5, Verdict(Agreement.ODD, 1000)),
        ({1000: A}, [{1000: B}] * 2 + [{1000: A}] * 2, 5, Verdict(Agreement.AGREES)),
        ({1000: A}, [{1000: B}], 1, Verdict(Agreement.ODD, 1000)),
        ({1000: A}, [{1000: B}], 2, Verdict(Agreement.UNDECIDED, 1000)),
        ({1000: A, 2000: A}, [{1000: A, 2000: B}] * 2, 3, Verdict(Agreement.ODD, 2000)),
        ({1000: A, 2000: A}, [{1000: B}, {2000: B}], 3, Verdict(Agreement.UNDECIDED, 1000)),
        ({1000: A, 2000: A}, [{1000: B, 2000: B}, {2000: B}], 3, Verdict(Agreement.ODD, 2000)),
    ],
)
def test_a_master_is_odd_when_a_majority_of_all_voters_holds_one_other_digest(
    mine: Marks, others: list[Marks], voters: int, verdict: Verdict
) -> None:
    assert odd_one_out(mine, others, voters) == verdict


def test_marks_are_kept_at_round_versions_and_only_the_last_of_them() -> None:
    state, marks = State(Schema()), Marks()
    for version in range(1, 20 * MARK_EVERY + 1):
        mark(marks, state.at(version, state.history))
    assert list(marks) == [n * MARK_EVERY for n in range(21 - MARKS_KEPT, 21)]
    assert set(marks.values()) == {state.digest}
