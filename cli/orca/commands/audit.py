"""audit: who changed what."""

import datetime
from typing import Any

import click

from orca import show
from orca.commands.running import with_client


@click.command()
@click.option("--resource", help="Only of this one, such as services/default/web.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@show.output_option
def audit(resource: str | None, limit: int, output: str) -> None:
    """Who changed what, newest first; times are UTC.

    \b
    orca audit --resource services/default/web
    """
    found = with_client(lambda client: client.audit(resource=resource, limit=limit))
    if show.structured(found, output):
        return
    show.table(["AT", "WHO", "DID", "WHAT", "DETAILS"], [_row(e) for e in found["events"]])


def _row(event: dict[str, Any]) -> list[object]:
    at = datetime.datetime.fromtimestamp(event["at"], datetime.UTC)
    details = " ".join(f"{name}={value}" for name, value in event["details"].items())
    when = at.strftime("%Y-%m-%d %H:%M:%SZ")
    return [when, event["actor"], event["action"], event["resource"], details]
