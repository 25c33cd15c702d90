"""tokens: make, list and revoke them."""

import datetime
import re
from typing import Any

import click

from orca import show
from orca.commands.running import with_client

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """`30d`, `12h`, `15m`, `90s` or a number of seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if match is None:
        raise click.BadParameter("must be a time such as 30d, 12h, 15m or 90s")
    return float(match[1]) * _UNITS[match[2] or "s"]


@click.group(invoke_without_command=True)
@click.pass_context
def tokens(ctx: click.Context) -> None:
    """Show the tokens with which people and programs reach the API."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_tokens)


@tokens.command("list")
@show.output_option
def list_tokens(output: str = "table") -> None:
    """Each token, without its secret."""
    found = with_client(lambda client: client.tokens())
    if show.structured({"tokens": found}, output):
        return
    show.table(["TOKEN", "ROLE", "PROJECT", "MADE", "EXPIRES"], [_row(token) for token in found])


@tokens.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["admin", "deployer", "viewer"]), required=True, help="What it may."
)
@click.option("-p", "--project", help="Only this project.")
@click.option("--ttl", callback=seconds, help="How long it works: 30d, 12h … (for ever).")
@show.output_option
def create(name: str, role: str, project: str | None, ttl: float | None, output: str) -> None:
    """Make a token named NAME and print it; it is not shown again.

    A viewer reads, a deployer also deploys, scales and stops, an admin may do everything.

    \b
    orca tokens create ci --role deployer --project shop --ttl 30d >ci.token
    """
    made = with_client(lambda client: client.create_token(name, role, project=project, ttl=ttl))
    if not show.structured(made, output):
        show.say(made["token"])


@tokens.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Refuse the token NAME from now on, also on open streams."""
    show.say(with_client(lambda client: client.revoke_token(name))["ok"])


def _row(token: dict[str, Any]) -> list[object]:
    expires = _day(token["expires_at"]) if token["expires_at"] else "never"
    if token["expired"]:
        expires = f"expired {expires}"
    return [token["name"], token["role"], token["project"], _day(token["created_at"]), expires]


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
