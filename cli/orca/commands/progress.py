"""What becomes of a deploy while it is waited for: redrawn in place on a terminal, else plain lines."""

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.errors import OrcaError

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

PLAIN_SECONDS = 1.0
LIVE_SECONDS = 0.25

Key = tuple[str, str]


class Progress:
    """On standard error, so that standard output has the outcome only."""

    def __init__(self, wanted: list[Key]) -> None:
        self._wanted = list(dict.fromkeys(wanted))
        self._is_live = sys.stderr.isatty()
        self._said: dict[Key, str] = {}
        self._drawn = 0
        self._started = time.monotonic()

    async def tell(self, client: "Client", deploying: "asyncio.Future[Any]") -> None:
        """Until the deploy has its answer."""
        while True:
            await asyncio.wait(
                {deploying}, timeout=LIVE_SECONDS if self._is_live else PLAIN_SECONDS
            )
            if deploying.done():
                self._wipe()
                return
            try:
                known = {(s["project"], s["name"]): s for s in await client.status()}
            except OrcaError:  # a token that may not read, or no master just now
                continue
            if not deploying.done():
                self._show({key: known[key] for key in self._wanted if key in known})

    def _show(self, known: Mapping[Key, dict[str, Any]]) -> None:
        lines = {key: _line(service) for key, service in known.items()}
        if self._is_live:
            self._redraw(lines)
            return
        for (project, name), line in lines.items():
            if self._said.get((project, name)) != line:
                self._said[project, name] = line
                show.say(f"  {name}: {line}", err=True)

    def _redraw(self, lines: Mapping[Key, str]) -> None:
        """One line for each service, cut to the terminal's width: a wrapped one could not be redrawn."""
        width, height = _terminal()
        seconds = f"({time.monotonic() - self._started:.0f} s)"
        shown = [show.clean(f"  {name}: {line}") for (_, name), line in lines.items()]
        room = max(1, height - 2)
        if len(shown) > room:
            shown = [*shown[: room - 1], f"  and {len(shown) - room + 1} more"]
        self._wipe()
        for number, line in enumerate(shown):
            tail = f" {seconds}" if number == len(shown) - 1 else ""
            click.secho(line[: max(1, width - 1 - len(tail))] + tail, dim=True, err=True)
        self._drawn = len(shown)

    def _wipe(self) -> None:
        if self._drawn:
            click.echo(f"\x1b[{self._drawn}A\x1b[J", err=True, nl=False)
            self._drawn = 0


def _line(service: Mapping[str, Any]) -> str:
    line = f"{service['status']}, {service['running_replicas']}/{service['desired_replicas']}"
    return f"{line}: {service['reason']}" if service["reason"] else line


def _terminal() -> tuple[int, int]:
    """(columns, lines) of where standard error goes."""
    import os

    try:
        found = os.get_terminal_size(sys.stderr.fileno())
    except OSError:
        return 80, 24
    return found.columns or 80, found.lines or 24
