"""Clients that are slow on purpose, all at once, against a real master; and what the others notice.

1,000 connections send the head of a request, 1,000 a body, a byte a second each, and neither ever ends;
200 ask for much and read nothing. Meanwhile `wrk` asks for the status on a few connections: that is what
an honest client meets. Closed is what the master has closed: its descriptors are counted. Two waves, as
memory that the first one takes and the second one does not is no leak.
"""

import argparse
import asyncio
import resource
import shutil
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import psutil
from table import Gates, machine, megabytes, milliseconds, print_table

from api import Measured, fill, load
from orca import local

PORT = 7480
HEADS, BODIES, READERS = 1000, 1000, 200
ASKED_AT_ONCE = 200
CLOSED_WITHIN_SECONDS = 30.0
P99_SECONDS = 0.150
WAVE_BYTES = 100e6
LEFT_BYTES = 10e6
HONEST = 4


@dataclass(slots=True)
class Wave:
    """Seconds from its beginning; bytes of the master's resident memory."""

    before: int = 0
    most: int = 0
    after: int = 0
    most_open: int = 0
    closed_after: float | None = None
    honest: list[Measured] = field(default_factory=list)


class Slow:
    """Its connections; `trickle` sends a byte more on those that are to go on."""

    def __init__(self, port: int, token: str) -> None:
        bearer = f"Authorization: Bearer {token}\r\n"
        post = f"POST /api/v1/deploy HTTP/1.1\r\nHost: x\r\n{bearer}"
        post += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        status = f"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n{bearer}\r\n"
        self._address = ("127.0.0.1", port)
        self._trickling: list[socket.socket] = []
        self._readers: list[socket.socket] = []
        for _ in range(HEADS):
            self._trickling.append(self._opened("GET /api/v1/health HTTP/1.1\r\nX: "))
        for _ in range(BODIES):
            self._trickling.append(self._opened(post))
        for _ in range(READERS):
            self._readers.append(self._opened(status * ASKED_AT_ONCE))

    def _opened(self, beginning: str) -> socket.socket:
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(self._address)
        opened.setblocking(False)
        with suppress(BlockingIOError):
            opened.send(beginning.encode())
        return opened

    def trickle(self) -> None:
        for each in self._trickling:
            with suppress(OSError):
                each.send(b"x")

    def close(self) -> None:
        for each in [*self._trickling, *self._readers]:
            each.close()


def wave(master: psutil.Process, api: str, token: str) -> Wave:
    found = Wave(before=master.memory_info().rss)
    idle = master.num_fds()
    is_over = False

    def ask() -> None:
        while not is_over:
            found.honest.append(load(f"{api}/api/v1/status", token, seconds=2, connections=HONEST))

    honest = Thread(target=ask)
    honest.start()
    started = time.monotonic()
    slow = Slow(PORT, token)
    try:
        while (took := time.monotonic() - started) < 2 * CLOSED_WITHIN_SECONDS:
            slow.trickle()
            found.most = max(found.most, master.memory_info().rss)
            left = master.num_fds() - idle - HONEST
            found.most_open = max(found.most_open, left)
            if left <= 0:
                found.closed_after = took
                break
            time.sleep(1.0)
    finally:
        is_over = True
        honest.join()
        slow.close()
    found.after = master.memory_info().rss
    return found


def report(waves: list[Wave], gates: Gates) -> None:
    rows = [
        [
            f"wave {number}",
            str(each.most_open),
            f"{each.closed_after:.0f} s" if each.closed_after is not None else "not",
            milliseconds(max(run.p99 for run in each.honest)),
            megabytes(each.before),
            megabytes(each.most),
            megabytes(each.after),
        ]
        for number, each in enumerate(waves, 1)
    ]
    title = f"{HEADS} slow heads, {BODIES} slow bodies, {READERS} that do not read, {machine()}"
    header = ["", "open at once", "all closed", "others' p99", "RSS before", "most", "after"]
    print_table(title, header, rows)
    for number, each in enumerate(waves, 1):
        opened = HEADS + BODIES + READERS
        gates.at_least(f"wave {number}: open at once", each.most_open, 0.9 * opened, "connections")
        closed = each.closed_after if each.closed_after is not None else float("inf")
        gates.at_most(f"wave {number}: all closed", closed, CLOSED_WITHIN_SECONDS, "s")
        worst = max(run.p99 for run in each.honest) * 1000
        gates.at_most(f"wave {number}: others' p99", worst, P99_SECONDS * 1000, "ms")
        taken = (each.most - each.before) / 1e6
        gates.at_most(f"wave {number}: memory taken", taken, WAVE_BYTES / 1e6, "MB")
    left = (waves[-1].most - waves[0].most) / 1e6
    gates.at_most("memory that each further wave takes", left, LEFT_BYTES / 1e6, "MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waves", type=int, default=2)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("error: wrk is not installed (Debian's package wrk)")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the master inherits it
    folder, gates = Path(tempfile.mkdtemp(prefix="orca-bench-")), Gates()
    try:
        cluster = asyncio.run(
            local.up(folder, workers=0, port=PORT, runtime="process", say=lambda _: None)
        )
        asyncio.run(fill(cluster))
        master = psutil.Process(cluster.processes[0].pid)
        load(f"{cluster.api[0]}/api/v1/status", cluster.token(), seconds=2, connections=HONEST)
        waves = [
            wave(master, cluster.api[0], cluster.token()) for _ in range(max(2, options.waves))
        ]
        report(waves, gates)
    finally:
        local.down(folder, say=lambda _: None)
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if gates.missed else 0)


if __name__ == "__main__":
    main()
