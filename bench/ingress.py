"""What the ingress costs beside bare Envoy, and how soon it knows of a change.

*ours* is the configuration that a worker writes for a service with a domain and default settings; *bare* is
Envoy with one listener, one route and one cluster, and no access log; HAProxy and nginx, where they are
installed, are in their smallest configurations, too. Each has one thread on the first processor; `wrk` and
the backend, which answers at once, are on the second. Connections are kept. The proxies take turns. CPU per
request is the proxy's processor time over the requests it answered.

On a machine with other work a processor's speed changes from second to second, more than what is to be found.
So the verdict is of pairs: ours and bare Envoy are asked at the same time and share the first processor.
*bare again* is bare Envoy beside itself, and tells how far to trust the others.

With `--parts` it is counted instead what each part of our configuration costs, under valgrind.

Then, in a cluster of one master and one worker, how long it takes from a commit until requests go the new
way.
"""

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from changes import measure_changes
from ingress_parts import FEW, MANY, PARTS, instructions, without_all
from lab import clean_up_on_signals
from proxies import (
    HERE,
    HOST,
    LOAD_CPU,
    Proxy,
    Starts,
    backend,
    bare,
    haproxy,
    nginx,
    ours,
    running,
)
from table import Gates, machine, median, milliseconds, print_table, ratio

MOST_CPU = 1.05
"""Of bare Envoy's, per request."""
MOST_SECONDS_TO_TRAFFIC = 0.1
WARM_SECONDS = 1.0
BARE, OURS, QUIET = "bare Envoy", "ours", "ours, no access log"


@dataclass(frozen=True, slots=True)
class Measured:
    """`p50`, `p99` and `cpu` (per request) in seconds."""

    per_second: float
    p50: float
    p99: float
    cpu: float


def load(proxy: Proxy, *, seconds: float, connections: int) -> Measured:
    """Raises SystemExit when an answer was an error."""
    command = ["taskset", "-c", str(LOAD_CPU), "wrk", "-t1", f"-c{connections}", "--latency"]
    command += [f"-d{seconds:g}s", "-H", f"Host: {HOST}", f"http://{HERE}:{proxy.port}/"]
    before = proxy.seconds()
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = proxy.seconds() - before
    if "Non-2xx" in told or "Socket errors" in told:
        raise SystemExit(f"error: requests failed:\n{told}")
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", told)[1])
    requests = int(_found(r"(\d+) requests in", told)[1])
    return Measured(rate, _percentile(told, 50), _percentile(told, 99), used / requests)


def _percentile(told: str, which: int) -> float:
    found = _found(rf"{which}%\s+([\d.]+)(us|ms|s)", told)
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]]


def _found(pattern: str, told: str) -> re.Match[str]:
    found = re.search(pattern, told)
    assert found is not None, told
    return found


@contextmanager
def a_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="orca-bench-"))
    folder.chmod(0o755)  # nginx's workers are another user
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_turns(
    ways: Mapping[str, Starts], folder: Path, options: argparse.Namespace
) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    with running(folder, ways) as proxies:
        for proxy in proxies.values():
            load(proxy, seconds=WARM_SECONDS, connections=options.connections)
        for _ in range(options.rounds):
            for name, proxy in proxies.items():
                found[name].append(
                    load(proxy, seconds=options.seconds, connections=options.connections)
                )
    return found


@dataclass(frozen=True, slots=True)
class Beside:
    """`cpu` seconds per request of a way, and of the reference at the same time, each round."""

    reference: list[float]
    cpu: list[float]

    @property
    def ratios(self) -> list[float]:
        return sorted(mine / other for mine, other in zip(self.cpu, self.reference, strict=True))

    @property
    def more(self) -> float:
        """Seconds beyond the reference."""
        return median([a - b for a, b in zip(self.cpu, self.reference, strict=True)])


def beside(reference: Starts, way: Starts, folder: Path, options: argparse.Namespace) -> Beside:
    """Both are asked at once and share a processor, each with half of the connections."""
    found = Beside([], [])
    both = {"reference": reference, "way": way}
    folder.mkdir()
    with running(folder, both) as proxies, ThreadPoolExecutor(len(both)) as threads:

        def ask(proxy: Proxy) -> Measured:
            return load(proxy, seconds=options.seconds, connections=options.connections // 2)

        list(threads.map(ask, proxies.values()))  # only warms up
        for _ in range(options.rounds):
            one, other = threads.map(ask, proxies.values())
            found.reference.append(one.cpu)
            found.cpu.append(other.cpu)
    return found


def main() -> None:
    clean_up_on_signals()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--parts", action="store_true", help="only this")
    options = parser.parse_args()
    missing = [name for name in ("wrk", "taskset") if shutil.which(name) is None]
    if missing or (os.cpu_count() or 1) < 2:
        raise SystemExit(f"error: this needs two processors, wrk and taskset (missing: {missing})")
    gates = Gates()
    with a_folder() as folder, backend(folder / "backend") as port:
        if options.parts:
            tell_parts(port, folder)
            return
        tell_turns(port, folder, options)
        tell_beside(port, folder, options, gates)
    tell_changes(asyncio.run(measure_changes(options.changes)), gates)
    sys.exit(1 if gates.missed else 0)


def tell_turns(port: int, folder: Path, options: argparse.Namespace) -> None:
    ways = {BARE: bare(port), OURS: ours(port), QUIET: ours(port, access_log=False)}
    for name, starts in (("haproxy", haproxy(port)), ("nginx", nginx(port))):
        if shutil.which(name) is None:
            print(f"{name} is not installed: left out")
        else:
            ways[name] = starts
    found = in_turns(ways, folder, options)
    rows = []
    for name, runs in found.items():
        rate, base = _medians(runs), _medians(found[BARE])
        rows.append(
            [
                name,
                f"{rate.per_second:,.0f}",
                ratio(rate.per_second, base.per_second),
                milliseconds(rate.p50),
                milliseconds(rate.p99),
                _microseconds(rate.cpu),
                ratio(rate.cpu, base.cpu),
            ]
        )
    title = f"one after the other, {options.connections} connections, {options.rounds} rounds of"
    title += f" {options.seconds:g} s, {machine()}"
    header = ["", "requests/s", "/bare", "p50", "p99", "CPU/request", "/bare"]
    print_table(title, header, rows)


def _medians(runs: Sequence[Measured]) -> Measured:
    return Measured(
        median([run.per_second for run in runs]),
        median([run.p50 for run in runs]),
        median([run.p99 for run in runs]),
        median([run.cpu for run in runs]),
    )


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


def tell_beside(port: int, folder: Path, options: argparse.Namespace, gates: Gates) -> None:
    ways = {
        "bare again": bare(port),
        OURS: ours(port),
        QUIET: ours(port, access_log=False),
    }
    rows, ratios = [], {}
    for number, (name, starts) in enumerate(ways.items()):
        found = beside(bare(port), starts, folder / f"beside-{number}", options)
        ratios[name] = median(found.ratios)
        rows.append([name, *_row(found)])
    title = (
        f"CPU per request beside bare Envoy at the same time, {options.rounds} rounds, {machine()}"
    )
    print_table(title, ["", "bare", "this", "more", "/bare", "range"], rows)
    for name in (OURS, QUIET):
        gates.at_most(f"CPU per request beside bare Envoy: {name}", ratios[name], MOST_CPU, "x")


def _row(found: Beside) -> list[str]:
    ratios = found.ratios
    return [
        _microseconds(median(found.reference)),
        _microseconds(median(found.cpu)),
        _microseconds(found.more),
        f"{median(ratios):.3f}x",
        f"{ratios[0]:.3f}-{ratios[-1]:.3f}",
    ]


def tell_parts(port: int, folder: Path) -> None:
    if shutil.which("valgrind") is None:
        raise SystemExit("error: valgrind is not installed (Debian's package valgrind)")
    with running(folder, {BARE: bare(port)}) as proxies:
        program = proxies[BARE].program
    ways = {BARE: bare(port), OURS: ours(port)}
    ways |= {name: ours(port, change=change) for name, change in PARTS.items()}
    ways["all of these"] = ours(port, change=without_all)
    found = counted(ways, program, folder)
    print_table(
        f"instructions per request outside the kernel, {MANY - FEW:,} requests",
        ["", "thousands", "/bare"],
        [
            [name, f"{found[name] / 1000:.1f}", ratio(found[name], found[BARE])]
            for name in (BARE, OURS)
        ],
    )
    costs = {name: found[OURS] - found[name] for name in [*PARTS, "all of these"]}
    rows = [
        [name, f"{cost / 1000:.1f}", f"{100 * cost / found[BARE]:.1f} %"]
        for name, cost in sorted(costs.items(), key=lambda each: -each[1])
    ]
    print_table("what each part costs", ["part", "thousands", "of bare"], rows)


def counted(ways: Mapping[str, Starts], program: str, folder: Path) -> dict[str, float]:
    """Instructions per request. What starting takes is taken as the same for all that are ours."""
    runs = [(starts, MANY) for starts in ways.values()] + [(ways[w], FEW) for w in (BARE, OURS)]

    def count(number: int) -> int:
        starts, requests = runs[number]
        return instructions(starts, program, folder / f"run-{number}", number % 2, requests)

    with ThreadPoolExecutor(2) as threads:
        *counts, bare_start, our_start = threads.map(count, range(len(runs)))
    return {
        name: (many - (bare_start if name == BARE else our_start)) / (MANY - FEW)
        for name, many in zip(ways, counts, strict=True)
    }


def tell_changes(found: dict[str, list[float]], gates: Gates) -> None:
    rows = [
        [name, milliseconds(median(took)), milliseconds(max(took)), str(len(took))]
        for name, took in found.items()
    ]
    title = f"from a commit to the first request that goes the new way, {machine()}"
    print_table(title, ["", "median", "worst", "changes"], rows)
    for name, took in found.items():
        gates.at_most(f"{name}: median", median(took), MOST_SECONDS_TO_TRAFFIC, "s")


if __name__ == "__main__":
    main()
