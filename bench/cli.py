"""How long `orca --help` takes, beside a Python that does nothing, in the same run.

Prints medians of alternating runs, and what the time goes to. Fails when the help takes 150 ms or more,
unless this machine's Python alone takes a third of that: then the ratio to it is the gate.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 31
GATE_SECONDS = 0.150
GATE_RATIO = 6.0
ORCA = str(Path(sys.executable).parent / "orca")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "orca --help": [ORCA, "--help"],
    "orca logs --help": [ORCA, "logs", "--help"],
    "orca version --client": [ORCA, "version", "--client"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def slowest_imports(count: int) -> list[str]:
    """`own milliseconds, module` of what `orca --help` imports."""
    code = "from orca.main import cli; cli(['--help'], prog_name='orca')"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines()[1:]]
    own = sorted(((int(row[0]), row[2].strip()) for row in rows if len(row) == 3), reverse=True)
    return [f"{microseconds / 1000:6.1f} ms  {module}" for microseconds, module in own[:count]]


def main() -> int:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    floor = medians["python -c pass"]
    print(f"medians of {RUNS} runs, taking turns:")
    for name, median in medians.items():
        print(f"  {median * 1000:6.1f} ms  {median / floor:4.1f} x  {name}")
    print("what orca --help imports, the slowest first:")
    print("\n".join(f"  {line}" for line in slowest_imports(8)))
    found = medians["orca --help"]
    is_met = found < GATE_SECONDS or (floor > GATE_SECONDS / 3 and found / floor < GATE_RATIO)
    word = "PASS" if is_met else "FAIL"
    print(f"{word}  orca --help: {found * 1000:.0f} ms, at most {GATE_SECONDS * 1000:.0f} ms")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
