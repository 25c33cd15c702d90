"""The solo log on this machine's disk: another process, kill -9, permissions."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from recorder import Recorder, a_log, a_slow_pace, recovered, running

from orca_common.real import real_env
from orca_master.state.log import FolderInUse

WRITER = """
import asyncio, os, sys
sys.path[:0] = sys.argv[2:]
from recorder import Recorder, a_log
from orca_common.logs import configure_logs
from orca_common.real import real_env

configure_logs()  # to standard error

async def main():
    machine = Recorder()
    log = a_log(real_env(), sys.argv[1], segment_bytes=20_000, snapshot_every_entries=300)
    await log.start(machine)
    async with asyncio.TaskGroup() as group:
        group.create_task(log.run())
        number = len(machine.entries)
        while True:
            await log.propose(b"%012d" % number)
            os.write(1, b"%d\\n" % number)
            number += 1

asyncio.run(main())
"""

OPTIONS = {"segment_bytes": 20_000, "snapshot_every_entries": 300}


def a_writer(folder: Path) -> subprocess.Popen[bytes]:
    """A process that writes as fast as it can and prints the numbers that were acknowledged."""
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(here), str(here.parents[1])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def killed_after(writer: subprocess.Popen[bytes], lines: int) -> list[int]:
    assert writer.stdout is not None
    with writer, writer.stdout as out:
        said = [out.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        said += out.readlines()
    return [int(line) for line in said if line.endswith(b"\n")]


async def test_ten_times_kill_9_in_full_flight_lose_nothing(tmp_path):
    folder = tmp_path / "log"
    acknowledged: list[int] = []
    for round_number in range(10):
        acknowledged += killed_after(a_writer(folder), 150 + 37 * round_number)
        found = [int(entry) for entry in await recovered(real_env(), folder=str(folder), **OPTIONS)]
        assert found == list(range(len(found))), "in order, no gap, none twice"
        assert set(acknowledged) <= set(found)
    assert len(acknowledged) > 3000
    assert any(name.endswith(".snapshot") for name in os.listdir(folder))


async def test_a_second_process_on_the_folder_is_refused(tmp_path):
    folder = tmp_path / "log"
    writer = a_writer(folder)
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(FolderInUse, match="another process"):
        await a_log(real_env(), str(folder)).start(Recorder())
    killed_after(writer, 0)
    await recovered(real_env(), folder=str(folder), **OPTIONS)


async def test_nobody_else_can_look_into_the_folder(tmp_path):
    folder = tmp_path / "above" / "log"
    async with running(a_log(real_env(), str(folder)), Recorder()) as log:
        await log.propose(b"secret")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


async def test_snapshots_and_slow_syncs_go_through_real_threads(tmp_path):
    machine = Recorder()
    log = a_log(real_env(), str(tmp_path / "log"), **OPTIONS)
    async with running(log, machine):
        log._pace = a_slow_pace()  # as on a slow disk
        await asyncio.gather(*(log.propose(b"%d" % number) for number in range(2000)))
        for number in range(2000, 2500):
            await log.propose(b"%d" % number)
        number = 2500
        async with asyncio.timeout(60):  # the machine may be busy; a snapshot takes several syncs
            while not any(name.endswith(".snapshot") for name in os.listdir(tmp_path / "log")):
                await log.propose(b"%d" % number)
                number += 1
    found = await recovered(real_env(), folder=str(tmp_path / "log"), **OPTIONS)
    assert found == machine.entries == [b"%d" % number for number in range(len(found))]
