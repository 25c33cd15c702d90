"""Marks: what masters compare to find out that one of them holds something else than the others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from orca_master.state.rows import State

MARK_EVERY = 1_000
MARKS_KEPT = 16

Marks = dict[int, bytes]
"""Version of the state → its digest, for the last versions that are multiples of `MARK_EVERY`."""


class Agreement(StrEnum):
    AGREES = "agrees"
    ODD = "odd"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How this master stands to the others, and the version that shows it (None: nothing differs)."""

    agreement: Agreement
    version: int | None = None


def mark(marks: Marks, state: State) -> None:
    """Keep the state's digest if its version is one to compare at."""
    if state.version % MARK_EVERY == 0:
        marks[state.version] = state.digest
        for version in sorted(marks)[:-MARKS_KEPT]:
            del marks[version]


def odd_one_out(mine: Marks, others: Sequence[Marks], voters: int) -> Verdict:
    """Judge the marks of this master against those of others, one of each that could be asked.

    Odd: at some version a majority of all `voters` holds one other digest. Undecided: somebody
    differs, and neither his digest nor mine has a majority. A difference that a majority decides in
    my favour is his trouble: I agree.
    """
    majority = voters // 2 + 1
    undecided: int | None = None
    for version in sorted(mine):
        held = Counter(marks[version] for marks in others if version in marks)
        held[mine[version]] += 1
        digest, count = held.most_common(1)[0]
        if len(held) == 1:
            continue
        if count < majority:
            undecided = undecided or version
        elif digest != mine[version]:
            return Verdict(Agreement.ODD, version)
    if undecided is not None:
        return Verdict(Agreement.UNDECIDED, undecided)
    return Verdict(Agreement.AGREES)
