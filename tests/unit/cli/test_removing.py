"""In which order `orca rm` of several names goes."""

from typing import Any

import pytest

from orca.commands.services import _dependants_first


def a_status(name: str, *needs: str) -> dict[str, Any]:
    return {"name": name, "depends_on": dict.fromkeys(needs, "healthy")}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["db", "web", "api"], ["web", "api", "db"]),
        (["db", "web"], ["db", "web"]),
        (["api", "db"], ["api", "db"]),
        (["db", "api", "db"], ["api", "db"]),
        (["nobody", "db", "api"], ["nobody", "api", "db"]),
    ],
)
def test_none_goes_before_who_depends_on_it(names: list[str], expected: list[str]) -> None:
    known = [a_status("db"), a_status("web", "api"), a_status("api", "db")]
    assert _dependants_first(names, known) == expected


def test_a_circle_that_a_server_tells_of_ends_too() -> None:
    known = [a_status("a", "b"), a_status("b", "a")]
    assert _dependants_first(["b", "a"], known) == ["b", "a"]
