"""Is there an order of these operations on one register that explains every answer?

The search of Wing and Gong (1993) with Lowe's memory of what was tried (2017): an operation may be
put next if it was called before every other open one returned; a state that was reached before with
the same operations done is not tried again. For a few hundred operations: where there is an order it
is found almost at once; to be sure that there is none may take for ever, so the search gives up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

UNKNOWN = math.inf
"""When an operation returned of which nobody heard: it may take effect at any time, or never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`verb` is read (answer: the value), write, or swap (from `expected`; answer: whether it did)."""

    called: float
    returned: float
    verb: str
    value: int | None = None
    expected: int | None = None
    answer: int | bool | None = None

    def after(self, state: int | None) -> tuple[bool, int | None]:
        """(whether this operation fits here, the state that it leaves)."""
        if self.verb == "write":
            return True, self.value
        is_known = self.returned != UNKNOWN
        if self.verb == "read":
            return not is_known or self.answer == state, state
        swaps = state == self.expected
        return not is_known or self.answer == swaps, self.value if swaps else state


TRIES = 100_000


def is_linearizable(operations: Sequence[Operation], initial: int | None = None) -> bool:
    """False if there is no such order, or none was found in very many tries."""
    ordered = sorted(operations, key=lambda op: (op.called, op.returned))
    known = sum(1 << n for n, op in enumerate(ordered) if op.returned != UNKNOWN)
    tried: set[tuple[int, int | None]] = set()
    stack: list[tuple[int, int | None]] = [(0, initial)]
    while stack and len(tried) < TRIES:
        done, state = stack.pop()
        if done & known == known:
            return True
        if (done, state) in tried:
            continue
        tried.add((done, state))
        first_return = min(
            (op.returned for n, op in enumerate(ordered) if not done >> n & 1), default=UNKNOWN
        )
        for number, operation in enumerate(ordered):
            if done >> number & 1:
                continue
            if operation.called > first_return:
                break
            fits, after = operation.after(state)
            if fits:
                stack.append((done | 1 << number, after))
    return False
