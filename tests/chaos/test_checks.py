"""The checks of the real faults find what they are for; else their silence proves nothing."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.registers import Registers, Violation, a_register
from chaos.world import World
from sim.raft.linearizability import Operation

WRITES = [Operation(1.0, 2.0, "write", 1), Operation(3.0, 4.0, "write", 2)]


def checked(
    operations: list[Operation], *, value: int = 2, revision: int = 2, is_there: bool = True
) -> None:
    registers = Registers([], "", 1)
    registers.operations["r"] = operations
    registers.writes["r"] = sum(operation.verb == "write" for operation in operations)
    services: list[dict[str, Any]] = [a_register("r", value) | {"revision": revision}]
    registers.check(services if is_there else [])


def test_what_is_in_order_passes() -> None:
    checked([*WRITES, Operation(3.5, 3.6, "read", answer=1)])


@pytest.mark.parametrize(
    ("operations", "end"),
    [
        (WRITES, {"is_there": False}),
        (WRITES, {"value": 1}),
        (WRITES, {"revision": 3}),
        ([*WRITES, Operation(5.0, 6.0, "read", answer=1)], {}),
        ([*WRITES, Operation(5.0, 6.0, "read", answer=None)], {}),
    ],
    ids=["lost", "last one lost", "doubled", "stale read", "read as if never written"],
)
def test_what_is_lost_doubled_or_stale_is_found(
    operations: list[Operation], end: dict[str, Any]
) -> None:
    with pytest.raises(Violation):
        checked(operations, **end)


def a_log(*leaders: tuple[int, str]) -> SimpleNamespace:
    lines = [{"event": "leadership changed", "term": t, "leader": name} for t, name in leaders]
    return SimpleNamespace(said="\n".join(map(json.dumps, lines)))


def test_two_leaders_of_one_term_are_found() -> None:
    world = object.__new__(World)
    world.masters = {"m1": a_log((1, "a"), (2, "b")), "m2": a_log((1, "a"), (3, "a"))}  # type: ignore[dict-item]
    assert world.check_leaders() == 3
    world.masters["m2"] = a_log((2, "a"))  # type: ignore[assignment]
    with pytest.raises(Violation, match="term 2"):
        world.check_leaders()


def test_an_operation_that_never_returned_may_have_happened_or_not() -> None:
    open_end = Operation(3.0, math.inf, "write", 2)
    for value in (1, 2):
        checked([WRITES[0], open_end], value=value)
