"""docs/session.md, replayed. Run this file as a program to write the page's outputs anew."""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/session.md"
BIN = Path(sys.executable).parent
ASK_AGAIN_SECONDS = 60.0

NORMAL = [
    (r"\b[0-9a-f]{16}\b", "ID"),
    (r"\borca_[\w-]{20,}", "SECRET"),
    (r"\bwhsec_\S+", "SECRET"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\dZ?)?", "TIME"),
    (r"\(\d+\.\d s\)", "(SECONDS)"),
    (r"127\.0\.0\.1:\d{4,5}", "127.0.0.1:PORT"),
    (r"^  \S+: \w+, .*\n", ""),  # of a deploy that took more than a second
    (r"process  +\d+  +[\d.]+ GiB", "process  CPUS  MEMORY"),
    (r"  +", "  "),  # columns are as wide as what is in them
    (r" +$", ""),
]
ASKS = re.compile(
    r"orca( --context \w+| --api \S+)? (status|logs|nodes|masters|audit|events|tokens list|history)"
)
"""What only asks is asked again until it answers as written: things settle in their own time."""


@dataclass
class Step:
    """A command and what it printed."""

    command: str
    lines: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


class Shell:
    """Runs commands in a folder of its own, which is the home of somebody who has only Orca."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORCA_", "XDG_"))}
        path = f"{BIN}:{os.environ['PATH']}"
        self._environment = kept | {"HOME": str(folder), "PATH": path, "ORCA_PORT": str(port)}

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            elif line.startswith(">") and not found[-1].lines:
                found[-1].command += "\n" + line[1:].removeprefix(" ")
            else:
                found[-1].lines.append(line)
    return found


def normal(text: str) -> str:
    for pattern, replacement in NORMAL:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def test_the_page_is_what_happens(tmp_path: Path) -> None:
    from integration.conftest import free_ports

    shell = Shell(tmp_path, free_ports(3))
    try:
        for step in steps(PAGE.read_text()):
            until = time.monotonic() + ASK_AGAIN_SECONDS
            said = shell.run(step.command)
            while ASKS.match(step.command) and normal(said) != normal(step.output):
                if time.monotonic() > until:
                    break
                time.sleep(0.2)
                said = shell.run(step.command)
            assert normal(said) == normal(step.output), f"$ {step.command}"
    finally:
        shell.run("orca down")


def test_the_page_shows_every_command() -> None:
    from orca.main import COMMANDS

    commands = " ".join(step.command for step in steps(PAGE.read_text()))
    shown = set(re.findall(r"orca(?: --\w+ \S+)? (\w+)", commands))
    assert COMMANDS.keys() - shown == {"completion"}


def write() -> None:
    """The page with what its commands print now; read it before it is committed."""
    page, answers = PAGE.read_text(), []
    with tempfile.TemporaryDirectory() as folder:
        shell = Shell(Path(folder), 6880)
        for step in steps(page):
            answers.append(shell.run(step.command))
            time.sleep(1.0)  # what it set going settles
        shell.run("orca down")

    def block(found: re.Match[str]) -> str:
        lines = []
        for line in found[1].splitlines():
            if line.startswith("$ ") and lines:
                lines += answers.pop(0).splitlines()
            if line.startswith(("$ ", ">")):
                lines.append(line)
        lines += answers.pop(0).splitlines()
        return "\n".join(["```console", *lines, "```"])

    page = re.sub(r"^```console\n(.*?)^```$", block, page, flags=re.MULTILINE | re.DOTALL)
    PAGE.write_text("\n".join(line.rstrip() for line in page.split("\n")))


if __name__ == "__main__":
    write()
