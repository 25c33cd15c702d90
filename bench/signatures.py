"""Whether the time that a wrong signature takes tells how much of it is right (WH-40).

Two kinds of deliveries, signed as GitHub signs: none of the 64 digits is right, or all but the last. They
take turns by chance; of the times Welch's t is taken. |t| below 4.5 says that nobody can tell them apart.
What was interrupted (the slowest twentieth of both together) is left out, as is usual in such tests. As a
control, a comparison that stops at the first difference is measured in the same way: it must be told apart.
"""

import argparse
import hashlib
import hmac
import math
import random
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

from table import Gates, machine, print_table

from orca_master.sources.webhooks.model import Forge
from orca_master.sources.webhooks.signatures import is_signed

BODY = b'{"ref": "refs/heads/main"}'
SECRET = b"a-secret-of-this-benchmark"
MOST_T = 4.5
KEPT = 0.95
OTHERS = str.maketrans("0123456789abcdef", "1234567890bcdefa")
"""A digit for a digit and a letter for a letter: reading these differs, whatever the secret is."""


def orcas(given: str) -> bool:
    headers = {"x-hub-signature-256": [f"sha256={given}"]}
    return is_signed(Forge.GITHUB, headers, BODY, SECRET, now=0.0)


def careless(given: str) -> bool:
    expected = hmac.new(SECRET, BODY, hashlib.sha256).hexdigest()
    return all(ours == theirs for ours, theirs in zip(expected, given, strict=True))


def times(check: Callable[[str], bool], signatures: list[str], count: int) -> list[list[int]]:
    """Nanoseconds of each kind, without the slowest."""
    chance = random.Random(1)
    turns = [kind for kind in range(len(signatures)) for _ in range(count)]
    chance.shuffle(turns)
    found: list[list[int]] = [[] for _ in signatures]
    for kind in turns:
        # A text of its own each time, as each delivery brings one.
        given = signatures[kind].encode().decode()
        started = time.perf_counter_ns()
        check(given)
        found[kind].append(time.perf_counter_ns() - started)
    most = sorted(t for kind in found for t in kind)[int(KEPT * len(turns))]
    return [[t for t in kind if t <= most] for kind in found]


def welch_t(one: list[int], other: list[int]) -> float:
    variance = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return (statistics.fmean(one) - statistics.fmean(other)) / math.sqrt(variance)


def main(options: SimpleNamespace) -> None:
    right = hmac.new(SECRET, BODY, hashlib.sha256).hexdigest()
    none = right.translate(OTHERS)
    nearly = right[:-1] + none[-1]
    rows, found = [], {}
    for name, check in (("Orca's", orcas), ("stops at the first", careless)):
        check(none)
        kinds = times(check, [none, nearly], options.samples)
        found[name] = abs(welch_t(*kinds))
        means = [f"{statistics.fmean(kind):,.0f} ns" for kind in kinds]
        rows.append([name, *means, f"{found[name]:.2f}"])
    title = f"{options.samples:,} samples each, {machine()}"
    print_table(title, ["comparison", "0 right", "63 right", "|t|"], rows)
    gates = Gates()
    gates.at_most("|Welch t| of 0 and 63 right digits", found["Orca's"], MOST_T, "")
    gates.at_least("|Welch t| of the control", found["stops at the first"], MOST_T, "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=10_000)
    main(parser.parse_args(namespace=SimpleNamespace()))
