"""The command line on a terminal: a pseudo terminal shows what people see."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from fcntl import ioctl
from pathlib import Path

from integration.conftest import RealCluster

ORCA = str(Path(sys.executable).parent / "orca")
COLUMNS = 60
SLOW = {
    "name": "slow",
    "command": [
        "sh",
        "-c",
        f"sleep 3; exec {sys.executable} -m http.server $PORT --bind 127.0.0.1",
    ],
    "port": 8000,
    "health": "/",
}


async def on_terminal(cluster: RealCluster, *words: str) -> str:
    """What reaches a terminal of 60 columns."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, COLUMNS, 0, 0))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ORCA_")}
    process = await asyncio.create_subprocess_exec(
        ORCA,
        *words,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=kept | {"ORCA_DATA_DIR": str(cluster.folder), "TERM": "xterm"},
    )
    os.close(slave)
    try:
        async with asyncio.timeout(60):
            read = await asyncio.get_running_loop().run_in_executor(None, _all, master)
            assert await process.wait() == 0
    finally:
        os.close(master)
    return read.decode()


def _all(fd: int) -> bytes:
    read = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(fd, 4096):
            read += piece
    return read


def screen(text: str) -> list[str]:
    """The lines that are left: cursor up, and clear to the end, are all that is drawn with."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|\x1b\[[\d;]*m|\r|\n|[^\x1b\r\n]+", text):
        if up := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(up[1])
        elif part == "\x1b[J":
            del lines[row:]
            lines.append("")
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part != "\r" and not part.startswith("\x1b"):
            lines[row] += part
    return [line for line in lines if line]


async def test_progress_is_redrawn_in_place_and_only_the_outcome_stays(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    file = tmp_path / "slow.json"
    file.write_text(json.dumps(SLOW))
    seen = await on_terminal(process_cluster, "deploy", str(file))
    assert seen.count("\x1b[1A\x1b[J") >= 2, "it was drawn again and again"
    drawn = re.findall(r"  slow: pending, 0/1[^\r\n]*", seen)
    assert drawn
    assert all(len(re.sub(r"\x1b\[[\d;]*m", "", line)) < COLUMNS for line in drawn)
    (outcome,) = screen(seen)
    assert re.fullmatch(r"slow: running  \(\d+\.\d s\)", outcome)


async def test_a_watched_status_is_drawn_again_until_it_is_interrupted(
    process_cluster: RealCluster,
) -> None:
    master, slave = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ORCA_")}
    process = await asyncio.create_subprocess_exec(
        *(ORCA, "status", "--watch"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=kept | {"ORCA_DATA_DIR": str(process_cluster.folder), "TERM": "xterm"},
    )
    os.close(slave)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(60):
            seen = b""
            while seen.count(b"\x1b[2J") < 3:
                seen += await loop.run_in_executor(None, os.read, master, 4096)
            process.send_signal(signal.SIGINT)
            rest = await loop.run_in_executor(None, _all, master)
            assert await process.wait() == 130
    finally:
        os.close(master)
    assert seen.count(b"no services yet") >= 2
    assert b"Traceback" not in seen + rest


async def test_replicas_have_colours_on_a_terminal_and_escapes_of_a_service_do_not_pass(
    process_cluster: RealCluster,
) -> None:
    talk = {
        "name": "talk",
        "command": ["printf", r"\033[31mred\033[2J\033]0;title\007 \302\2332J end\n"],
        "replicas": 2,
    }
    async with process_cluster.client() as client:
        await client.deploy([talk], wait=False)
        async with asyncio.timeout(30):
            while b"".join([c async for c in client.logs("talk")]).count(b"end") < 2:
                await asyncio.sleep(0.1)
    for words in (("logs", "talk"), ("logs", "talk", "--raw")):
        seen = await on_terminal(process_cluster, *words)
        assert re.search(r"\x1b\[\d+mtalk/1 \| \x1b\[0m", seen)
        assert ("\x1b[31mred" in seen) is ("--raw" in words)
        assert not set(seen) & {"\x07", "\x9b"}
        plain = re.sub(r"\x1b\[\d*m", "", seen)
        assert "\x1b" not in plain
        assert "talk/2 | red  end" in plain
