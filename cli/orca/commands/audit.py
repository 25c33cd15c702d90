"""audit: who changed what."""

import asyncio
import datetime
from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.commands.running import with_client
from orca.errors import CannotReach

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

AGAIN_SECONDS = 1.0
MOST_TRIES = 30
"""In a row, to reach a master that goes on with the trail."""
HEADERS = ["AT", "WHO", "DID", "WHAT", "DETAILS"]


@click.command()
@click.option("--resource", help="Only of this one, such as services/default/web.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Instead, what happens from now on.")
@show.output_option
def audit(resource: str | None, limit: int, follow: bool, output: str) -> None:
    """Who changed what, newest first; times are UTC.

    \b
    orca audit --resource services/default/web
    orca audit -f
    """
    if follow:
        with_client(lambda client: _follow(client, resource, output))
        return
    found = with_client(lambda client: client.audit(resource=resource, limit=limit))
    if show.structured(found, output):
        return
    show.table(HEADERS, [_row(e) for e in found["events"]])


async def _follow(client: "Client", resource: str | None, output: str) -> None:
    """Through as many masters as it takes; nothing is missed, and nothing comes twice."""
    await client.audit(
        resource=resource, limit=1
    )  # who cannot be reached at all is told so at once
    tries, seen = 0, None
    while True:
        try:
            async for event in client.follow_audit(resource=resource, after=seen):
                tries, seen = 0, event["id"]
                if not show.one_of_many(event, output):
                    show.say("  ".join(str(cell) for cell in _row(event)))
        except CannotReach as error:
            tries += 1
            if tries > MOST_TRIES:
                raise
            show.say(f"... {error}; trying again", err=True, dim=True)
        await asyncio.sleep(AGAIN_SECONDS)


def _row(event: dict[str, Any]) -> list[object]:
    at = datetime.datetime.fromtimestamp(event["at"], datetime.UTC)
    details = " ".join(f"{name}={value}" for name, value in event["details"].items())
    when = at.strftime("%Y-%m-%d %H:%M:%SZ")
    return [when, event["actor"], event["action"], event["resource"], details]
