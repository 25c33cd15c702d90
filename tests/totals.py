"""What a run has tried, told in a few lines at its end, also where several processes share the tests."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

TOTAL = "total"


class Totals(Protocol):
    def __call__(self, what: str, **counts: int) -> None:
        """What several tests tell of one thing is summed."""


def summary(stats: Mapping[str, Iterable[Any]]) -> Iterator[str]:
    """`stats`: the reports of a run of pytest, by outcome."""
    told: dict[str, Counter[str]] = {}
    for reports in stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    if name == TOTAL:
                        told.setdefault(value[0], Counter()).update(value[1])
    for what, counts in sorted(told.items()):
        each = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items())
        yield f"{what}: {each}"
