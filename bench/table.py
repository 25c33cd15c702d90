"""Numbers as people read them: the benchmarks' tables, units and percentiles."""

import os
import statistics
from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column is text, the others are numbers."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    print(f"\n{title}\n")
    print(line(header))
    print(line(["-" * width for width in widths]))
    for row in rows:
        print(line(row))
    print()


def machine() -> str:
    """What the numbers were measured on; a busy machine is part of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{os.cpu_count()} processors, {memory / 2**30:.0f} GiB, Linux {os.uname().release},"
        f" load {os.getloadavg()[0]:.1f}"
    )


def milliseconds(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:,.0f} ms" if ms >= 10 else f"{ms:.2f} ms"


def spread(samples: Sequence[float]) -> str:
    """Best and worst, in milliseconds."""
    return f"{min(samples) * 1000:,.0f}-{max(samples) * 1000:,.0f}"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def ratio(value: float, reference: float) -> str:
    return f"{value / reference:.2f}x"


def verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


class Gates:
    """What must hold, said as it is found, and again at the end."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def check(self, what: str, found: str, is_met: bool) -> None:
        print(f"{'PASS' if is_met else 'FAIL'}  {what}: {found}  (load {os.getloadavg()[0]:.1f})")
        if not is_met:
            self.missed.append(what)

    def at_most(self, what: str, value: float, limit: float, unit: str) -> None:
        self.check(what, f"{value:,.3g} {unit}, at most {limit:g} {unit}", value <= limit)

    def at_least(self, what: str, value: float, limit: float, unit: str) -> None:
        self.check(what, f"{value:,.3g} {unit}, at least {limit:g} {unit}", value >= limit)


def percentile(samples: Sequence[float], percent: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


median = statistics.median
