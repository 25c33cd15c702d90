"""logs: what replicas have written, and go on writing."""

import asyncio
import re
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from orca import show
from orca.commands.running import with_client
from orca.errors import CannotReach, OrcaError, Refused

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

AGAIN_SECONDS = 1.0
MOST_TRIES = 30
"""In a row, to reach a master that lets a follower go on."""
_SINCE = re.compile(r"[0-9]+(?:\.[0-9]+)?[smhd]")
_REPLICA = re.compile(r"[1-9][0-9]{0,4}|[0-9a-f]{16}")
_MARK = re.compile(r"([a-z0-9-]+/[0-9]+) \| ")
_MARK_COLOURS = ("cyan", "magenta", "blue", "yellow", "green", "bright_cyan", "bright_magenta")


def _since(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is None or _SINCE.fullmatch(text):
        return text
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or "T" not in text:
        raise click.BadParameter("must be a duration such as 10m, or 2026-01-31T12:00:00Z")
    return (at if at.tzinfo else at.astimezone()).isoformat()


def _replica(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not _REPLICA.fullmatch(text):
        raise click.BadParameter(
            "must be a replica's number, or a task's id as in `orca status NAME`"
        )
    return text


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "--since", callback=_since, help="Only since then: 10m, 2h … or 2026-01-31T12:00:00Z."
)
@click.option(
    "--replica", callback=_replica, help="Only this replica: its number, or its task's id."
)
@click.option(
    "--tail",
    type=click.IntRange(0, 100_000),
    help="So many last lines of each replica (100; with --since all).",
)
@click.option("--previous", is_flag=True, help="Of the last replicas that are gone.")
@click.option("-p", "--project", help="The service's project.")
@click.option("--raw", is_flag=True, help="Let colours through that the service writes.")
def logs(
    name: str,
    follow: bool,
    since: str | None,
    replica: str | None,
    tail: int | None,
    previous: bool,
    project: str | None,
    raw: bool,
) -> None:
    """Print what the replicas of the service NAME have written.

    With several replicas each line begins with `NAME/REPLICA |`. Lines that begin with `...` are
    Orca's own, and say what is missing.

    \b
    orca logs web --tail 20
    orca logs web -f --since 10m
    orca logs web --replica 2
    orca logs web --previous
    """
    if previous and (follow or since):
        raise click.UsageError(
            "what is gone prints nothing any more: --previous goes with --tail only"
        )
    printer = _Printer(raw)
    asked = _Asked(name, project, replica, tail, since)

    async def run(client: "Client") -> None:
        if follow:
            await _follow(client, asked, printer)
            return
        async for chunk in client.logs(
            name, tail=tail, since=since, replica=replica, previous=previous, project=project
        ):
            printer.take(chunk)

    try:
        with_client(run)
    finally:
        printer.end()


@dataclass(slots=True)
class _Asked:
    name: str
    project: str | None
    replica: str | None
    tail: int | None
    since: str | None


async def _follow(client: "Client", asked: _Asked, printer: "_Printer") -> None:
    """Through as many masters as it takes, until the service, or the one task, is gone."""
    tries, has_begun = 0, False
    while True:
        try:
            async for chunk in client.logs(
                asked.name,
                follow=True,
                tail=asked.tail,
                since=asked.since,
                replica=asked.replica,
                project=asked.project,
            ):
                tries, has_begun = 0, True
                printer.take(chunk)
            if not await _is_there(client, asked):
                return
        except (CannotReach, Refused) as error:
            is_gone = isinstance(error, Refused) and error.status < 500
            if has_begun and is_gone:
                return
            tries += 1
            if not has_begun or tries > MOST_TRIES:
                raise
            printer.end()
            show.say(f"... {error}; trying again", err=True, dim=True)
        # What was written meanwhile is wanted too; clocks differ a little, so some lines may come twice.
        asked.since, asked.tail = datetime.fromtimestamp(time.time() - 2, UTC).isoformat(), None
        await asyncio.sleep(AGAIN_SECONDS)


async def _is_there(client: "Client", asked: _Asked) -> bool:
    if asked.replica is not None and len(asked.replica) > 5:
        return False  # one task ends once
    try:
        services = await client.status(project=asked.project)
    except OrcaError:
        return True
    return any(service["name"] == asked.name for service in services)


@dataclass(slots=True)
class _Printer:
    """Whole lines, cleaned; with coloured marks on a terminal."""

    raw: bool
    _buffer: bytearray = field(default_factory=bytearray)

    def take(self, chunk: bytes) -> None:
        self._buffer += chunk
        end = self._buffer.rfind(b"\n") + 1
        if end:
            self._print(bytes(self._buffer[:end]))
            del self._buffer[:end]

    def end(self) -> None:
        if self._buffer:
            self._print(bytes(self._buffer))
            self._buffer.clear()

    def _print(self, lines: bytes) -> None:
        text = lines.decode(errors="replace")
        text = show.keep_colours(text) if self.raw else show.clean_lines(text)
        if sys.stdout.isatty():
            text = "".join(_coloured(line) for line in text.splitlines(keepends=True))
        # click takes colours away again where there is no terminal; --raw is to let them through.
        click.echo(text, nl=False, color=True if self.raw else None)
        sys.stdout.flush()


def _coloured(line: str) -> str:
    if line.startswith("... "):
        return click.style(line, dim=True)
    match = _MARK.match(line)
    if match is None:
        return line
    number = int(match[1].rpartition("/")[2])
    mark = click.style(match[0], fg=_MARK_COLOURS[number % len(_MARK_COLOURS)])
    return mark + line[match.end() :]
