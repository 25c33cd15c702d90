"""masters: who leads, how far each is, and how to add, remove and change over."""

import asyncio
import datetime
import time
from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.commands.running import with_client
from orca.commands.tokens import seconds
from orca.errors import OrcaError, Refused

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

LOOK_SECONDS = 0.5
MOST_NAMES = 20


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
@click.argument("name", required=False)
def transfer(name: str | None) -> None:
    """Let the master NAME lead, or the one that is furthest."""
    answer = with_client(lambda client: client.transfer(name))
    click.echo(f"{show.clean(answer['leader'])} leads")


@masters.command("rotate-ca")
@click.option("--wait", is_flag=True, help="Until it is done; tells how far it is.")
@click.option("--timeout", callback=seconds, default="10m", show_default=True, help="With --wait.")
@click.option(
    "--force", is_flag=True, help="Do not wait for who is away; also of one that goes on."
)
@click.option("--status", "only_status", is_flag=True, help="Begin nothing, tell how it is.")
@show.output_option
def rotate_ca(wait: bool, timeout: float, force: bool, only_status: bool, output: str) -> None:
    """Replace the cluster's certificate authority while everything runs.

    First everybody is told to trust the old one and a new one, then everybody is given a certificate of
    the new one, then the old one is refused. Each step waits for all masters and nodes, so bring back
    those that are away, remove them, or leave them behind with --force: they join again with a new token.
    """
    if only_status and (wait or force):
        raise click.UsageError("--status only looks: give it alone")
    if only_status:
        found = with_client(lambda client: client.authority())
    else:
        found = with_client(lambda client: client.rotate_authority(force=force))
    if wait:
        found = with_client(lambda client: _until_rotated(client, timeout))
    if show.structured(found, output):
        return
    if not wait:
        _say_authority(found)


async def _until_rotated(client: "Client", timeout: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout
    told: list[str] = []
    while True:
        found = await client.authority()
        said = authority_sentences(found)
        for sentence in said if said != told else ():
            click.echo(show.clean(sentence), err=True)
        told = said
        if found["rotation"] is None:
            return found
        if time.monotonic() > deadline:
            raise OrcaError(f"not done after {timeout:g} s; it goes on by itself")
        await asyncio.sleep(LOOK_SECONDS)


def _say_authority(found: dict[str, Any]) -> None:
    for sentence in authority_sentences(found):
        click.echo(show.clean(sentence))


def authority_sentences(found: dict[str, Any]) -> list[str]:
    """What `GET /api/v1/cluster/authority` says, for people."""
    until = datetime.datetime.fromtimestamp(found["until"], datetime.UTC)
    said = [f"authority {found['fingerprint'][:16]} signs, until {until:%Y-%m-%d}"]
    rotation = found["rotation"]
    if rotation is None:
        if found["left_behind"]:
            names = ", ".join(found["left_behind"])
            said.append(f"left behind when the one before it was dropped: {names}")
        return said
    done = rotation["member_count"] - rotation["missing_count"]
    step = {
        "trusting": f"step 1 of 2: {done} of {rotation['member_count']} trust both authorities",
        "renewing": f"step 2 of 2: {done} of {rotation['member_count']} have a certificate of the new one",
    }
    said.append(f"{step[rotation['step']]} (the new one is {rotation['new'][:16]})")
    said += [
        f"  {each['role']} {each['name']}: {each['reason']}"
        for each in rotation["missing"][:MOST_NAMES]
    ]
    if rotation["missing_count"] > MOST_NAMES:
        said.append(f"  and {rotation['missing_count'] - MOST_NAMES} more")
    return said


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
