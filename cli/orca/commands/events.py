"""events: what happens."""

import asyncio
import datetime
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.commands.running import with_client
from orca.errors import CannotReach, Refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from orca.client import Client  # slow to load

AGAIN_SECONDS = 1.0
MOST_TRIES = 30
"""In a row, to reach a master that goes on."""
TAIL = 20
HEADERS = ["AT", "KIND", "OF", "WHAT"]
_PLACE = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,19})?")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Filters with commas, and where to begin."""

    service: str | None
    project: str | None
    node: str | None
    kind: str | None
    since: str | None
    tail: int | None

    def of(self, client: "Client", *, follow: bool) -> "AsyncGenerator[dict[str, Any], None]":
        return client.events(
            follow=follow,
            service=self.service,
            project=self.project,
            node=self.node,
            kind=self.kind,
            since=self.since,
            tail=self.tail,
        )


def _since(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not _PLACE.fullmatch(text):
        raise click.BadParameter("must be a version, or the id of an event as in `-o json`")
    return text


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("--service", help="Only of these services: names with commas.")
@click.option("-p", "--project", help="Only of these projects.")
@click.option("--node", help="Only what happens on these nodes.")
@click.option("--kind", help="Only these: deployment, replica.ready …")
@click.option("--since", callback=_since, help="Only after this version, or this event's id.")
@click.option("--tail", type=click.IntRange(0, 10_000), help=f"So many of the last ones ({TAIL}).")
@show.output_option
def events(
    follow: bool,
    service: str | None,
    project: str | None,
    node: str | None,
    kind: str | None,
    since: str | None,
    tail: int | None,
    output: str,
) -> None:
    """What happens to services, replicas and nodes, oldest first; times are UTC.

    \b
    orca events -f
    orca events --service web --kind deployment,replica.exited
    orca events --since 4711 -o json
    """
    if since is not None and tail is not None:
        raise click.UsageError("--since and --tail both say where to begin: give one")
    tail = TAIL if since is None and tail is None else tail
    asked = _Asked(service, project, node, kind, since, tail)
    if follow:
        with_client(lambda client: _follow(client, asked, output))
        return
    found = with_client(lambda client: _all(client, asked))
    if not show.structured({"events": found}, output):
        show.table(HEADERS, [_row(event) for event in found])


async def _all(client: "Client", asked: _Asked) -> list[dict[str, Any]]:
    return [event async for event in asked.of(client, follow=False)]


async def _follow(client: "Client", asked: _Asked, output: str) -> None:
    """Through as many masters as it takes; nothing is missed, and nothing comes twice."""
    await _all(
        client, replace(asked, since=None, tail=0)
    )  # who cannot be reached is told so at once
    tries = 0
    while True:
        try:
            async for event in asked.of(client, follow=True):
                tries, asked = 0, replace(asked, since=event["id"], tail=None)
                if not show.one_of_many(event, output):
                    show.say("  ".join(str(cell) for cell in _row(event)))
        except (CannotReach, Refused) as error:
            tries += 1
            if tries > MOST_TRIES or (isinstance(error, Refused) and error.status < 500):
                raise
            show.say(f"... {error}; trying again", err=True, dim=True)
        await asyncio.sleep(AGAIN_SECONDS)


def _row(event: dict[str, Any]) -> list[object]:
    at = datetime.datetime.fromtimestamp(event["at"], datetime.UTC)
    service = event.get("service")
    of = f"{event.get('project')}/{service}" if service else event.get("node")
    return [at.strftime("%Y-%m-%d %H:%M:%SZ"), event["kind"], of or "-", event["text"]]
