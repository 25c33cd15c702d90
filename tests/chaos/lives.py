"""Many short lives of a log in processes, one after the other: `log_process.py`, driven."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos.shim import Shim
from raft_tls import an_authority, master_files

PROGRAM = Path(__file__).with_name("log_process.py")
KILLED = -9


@dataclass(slots=True)
class Told:
    """What a life has told: the numbers of its start, those acknowledged, how it ended."""

    found: list[int] | None = None
    kept: list[int] = field(default_factory=list)
    is_whole: bool = False
    failed: str = ""
    status: int = 0


class Lives:
    """`shim`: the faults of the next life. All folders are below `folder`."""

    def __init__(self, process: "subprocess.Popen[str]", shim: Shim, folder: Path) -> None:
        self._process = process
        self.shim = shim
        self.folder = folder

    def live(self, name: str, kind: str, *, count: int, **faults: int) -> Told:
        """One life on the folder of this name."""
        self.shim.clear()
        for fault, value in faults.items():
            self.shim.set(fault, value)
        assert self._process.stdin is not None
        life = {"folder": str(self.folder / name), "kind": kind, "count": count}
        self._process.stdin.write(json.dumps(life) + "\n")
        self._process.stdin.flush()
        return self._listen()

    def _listen(self) -> Told:
        told = Told()
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            verb, _, rest = line.strip().partition(" ")
            match verb:
                case "found":
                    told.found = [int(number) for number in rest.split()]
                case "kept":
                    told.kept.append(int(rest))
                case "whole":
                    told.is_whole = True
                case "failed":
                    told.failed = rest
                case "ended":
                    told.status = int(rest)
                    return told
        raise AssertionError("the process of lives has ended")


@contextmanager
def lives(library: Path, folder: Path) -> Iterator[Lives]:
    below = folder / "lives"
    below.mkdir()
    shim = Shim(library, folder / "control", below)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *master_files(an_authority(), "m1", folder)],
        env=dict(os.environ) | shim.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Lives(process, shim, below)
    finally:
        process.kill()
        process.communicate()
