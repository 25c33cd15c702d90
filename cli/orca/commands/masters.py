"""masters: who leads, how far each is, and how to add, remove and change over."""

from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.commands.running import with_client
from orca.commands.tokens import seconds
from orca.errors import Refused

if TYPE_CHECKING:
    from orca.client import Client  # slow to load


@click.group(invoke_without_command=True)
@click.pass_context
def masters(ctx: click.Context) -> None:
    """Show the masters; `orca masters token` lets a new one join."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_masters)


@masters.command("list")
@show.output_option
def list_masters(output: str = "table") -> None:
    """Each master, what it does and how far it is."""
    found = with_client(lambda client: client.masters())
    if show.structured(found, output):
        return
    show.table(
        ["MASTER", "ROLE", "REACHED", "BEHIND", "API", "VERSION"],
        [_row(master) for master in found["masters"]],
    )


@masters.command()
@show.output_option
def status(output: str) -> None:
    """How the masters are, in words; if none leads, as one of them knows it."""
    found = with_client(_known)
    if show.structured(found, output):
        return
    for sentence in sentences(found):
        click.echo(show.clean(sentence))


@masters.command()
@click.option("--ttl", callback=seconds, default="1h", show_default=True, help="How long it works.")
def token(ttl: float) -> None:
    """Print a token with which one master can join: orca-master --join HOST --token TOKEN."""
    show.say(with_client(lambda client: client.join_token(ttl=ttl, role="master")))


@masters.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also if the rest then tolerates fewer failures.")
def remove(name: str, force: bool) -> None:
    """Remove the master NAME; its process ends and its folder is of no use any more."""
    answer = with_client(lambda client: client.remove_master(name, force=force))
    click.echo(show.clean(answer["ok"]))


@masters.command()
def transfer() -> None:
    """Let another master lead: the one that is furthest."""
    answer = with_client(lambda client: client.transfer())
    click.echo(f"{show.clean(answer['leader'])} leads")


async def _known(client: "Client") -> dict[str, Any]:
    try:
        return await client.masters()
    except Refused as error:
        if error.status != 503:
            raise
        return await client.masters(stale=True)


def _row(master: dict[str, Any]) -> list[object]:
    return [
        master["name"],
        master["role"],
        "yes" if master["connected"] else "no",
        _behind(master),
        master["api"],
        master["version"],
    ]


def _behind(master: dict[str, Any]) -> str:
    behind = master["behind"]
    if behind is None:
        return "unknown"
    return "nothing" if behind == 0 else f"{behind} entries"


def sentences(found: dict[str, Any]) -> list[str]:
    """What `GET /api/v1/cluster/masters` says, for people."""
    leader = next((m["name"] for m in found["masters"] if m["role"] == "leader"), None)
    voters, tolerates = found["voters"], found["tolerates"]
    if leader is None:
        names = ", ".join(master["name"] for master in found["masters"])
        most = voters // 2 + 1
        return [
            f"nobody leads: of the {voters} masters that vote at least {most} must reach each other",
            f"masters are {names}; what runs goes on, nothing can be changed",
        ]
    said = [f"{leader} leads in term {found['term']}"]
    for master in found["masters"]:
        name = master["name"]
        if master["role"] == "joining":
            said.append(f"{name} is about to join")
        elif not master["connected"]:
            said.append(f"{name} ({master['role']}) cannot be reached")
        elif master["role"] == "learner":
            said.append(f"{name} is learning: it is {_behind(master)} behind and does not vote yet")
        elif master["role"] == "follower":
            said.append(f"{name} follows, {_behind(master)} behind")
    if voters == 1:
        said.append("one master alone: if it fails, nothing can be changed until it is back")
    elif tolerates <= 0:
        said.append(f"{voters} masters vote; none of those that work may fail")
    else:
        said.append(f"{voters} masters vote; {tolerates} may fail")
    if voters > 1 and voters % 2 == 0:
        said.append(f"an odd number is better: {voters} tolerate no more than {voters - 1}")
    return said
