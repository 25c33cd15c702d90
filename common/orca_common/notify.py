"""Telling the service manager (systemd) how we are. Without one, nothing happens."""

import asyncio
import os
import socket
from collections.abc import Callable

from orca_common.logs import get_logger

log = get_logger("notify")


def notify(*lines: str) -> None:
    """Send lines such as `READY=1`, as sd_notify(3) does."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        try:
            client.connect(address)
            client.sendall("\n".join(lines).encode())
        except OSError:
            return  # nobody listens any more; the daemon goes on


def watchdog_seconds() -> float | None:
    """How often the service manager wants to hear from this process, or it ends it (WatchdogSec)."""
    pid, usec = os.environ.get("WATCHDOG_PID"), os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or int(usec) == 0 or pid not in (None, str(os.getpid())):
        return None
    return int(usec) / 1e6


async def show_life(stalled: Callable[[], float]) -> None:
    """Until cancelled: say that we live, as long as that is true.

    That this coroutine runs shows that the event loop turns; `stalled` says for how many seconds
    the work behind it has made no progress. Silence makes the service manager start us again.
    """
    seconds = watchdog_seconds()
    if seconds is None:
        return
    was_silent = False
    while True:
        silent = stalled() > seconds / 2
        if not silent:
            notify("WATCHDOG=1")
        elif not was_silent:
            log.error("no progress: the service manager is told nothing", seconds=stalled())
        was_silent = silent
        await asyncio.sleep(seconds / 4)
