"""nodes: list, drain, label, remove, give up lost ones, and make a token for a new one."""

import asyncio
import datetime
import time
from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.commands.running import with_client
from orca.commands.tokens import seconds
from orca.errors import OrcaError

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

LOOK_SECONDS = 0.5


@click.group(invoke_without_command=True)
@show.output_option
@click.pass_context
def nodes(ctx: click.Context, output: str) -> None:
    """Show the cluster's nodes; `orca nodes token` lets a new one join, `drain` empties one."""
    if ctx.invoked_subcommand is not None:
        return
    info = with_client(lambda client: client.cluster_info())
    if show.structured(info, output):
        return
    show.say(f"cluster {info['cluster_name']}, led by {info['leader']['name']}")
    if not info["nodes"]:
        click.echo("no nodes yet: make a token with `orca nodes token` and start `orca-worker`")
        return
    show.table(
        ["NODE", "STATE", "RUNTIMES", "CPU", "MEMORY", "ADDRESS", "VERSION", "LABELS", "REASON"],
        [_row(node) for node in info["nodes"]],
    )


def _row(node: dict[str, Any]) -> list[object]:
    return [
        node["name"],
        _state(node),
        ", ".join(node["runtimes"]),
        f"{node['capacity']['cpu']:g}",
        show.size(node["capacity"]["memory_bytes"]),
        node["address"],
        node["version"],
        ", ".join(f"{key}={value}" for key, value in sorted(node["labels"].items())),
        _why(node),
    ]


def _why(node: dict[str, Any]) -> str | None:
    """The reason of its state, and since when."""
    if not node["reason"]:
        return None
    since = datetime.datetime.fromtimestamp(node["state_since"], datetime.UTC)
    return f"{node['reason']} (since {since:%Y-%m-%d %H:%M:%SZ})"


def _state(node: dict[str, Any]) -> str:
    """In one word, or how far a drain is."""
    if node["schedulable"]:
        return str(node["state"])
    left = node["tasks"]
    drain = f"draining ({left} left)" if left else "drained"
    return drain if node["state"] == "ready" else f"{node['state']}, {drain}"


@nodes.command()
@click.argument("name")
@click.option("--wait", is_flag=True, help="Until nothing runs there any more; tells what is left.")
@click.option("--timeout", callback=seconds, default="10m", show_default=True, help="With --wait.")
@click.option("--deadline", callback=seconds, help="Such as 1h: what is left is stopped.")
@click.option("--force", is_flag=True, help="Stop everything there now, and replace it after.")
def drain(name: str, wait: bool, timeout: float, deadline: float | None, force: bool) -> None:
    """Bring all work away from the node NAME, and give it none any more.

    Each replica goes on until another one is ready elsewhere; a fenced one stops first. What cannot go
    anywhere stays and says why, or is stopped at the deadline. It lasts until `orca nodes undrain NAME`,
    over restarts too.
    """
    if force and deadline is not None:
        raise click.UsageError("--force is a deadline of now: give one of the two")
    node = with_client(lambda client: client.drain(name, deadline=deadline, force=force))["node"]
    if not wait:
        show.say(f"{node['name']}: {_state(node)}")
        return
    with_client(lambda client: _until_drained(client, node["id"], timeout))


async def _until_drained(client: "Client", node_id: str, timeout: float) -> None:
    deadline, told = time.monotonic() + timeout, ""
    while True:
        nodes = (await client.cluster_info())["nodes"]
        node = next((node for node in nodes if node["id"] == node_id), None)
        if node is None:
            raise OrcaError("the node is gone")
        if (state := _state(node)) != told:
            show.say(f"{node['name']}: {state}")
            told = state
        if node["schedulable"]:
            raise OrcaError("somebody let it take work again: `orca nodes undrain`")
        if not node["tasks"]:
            return
        if time.monotonic() > deadline:
            for left in node["drain"]["left"]:
                if left["reason"]:
                    show.say(f"  {left['service']}, replica {left['replica']}: {left['reason']}")
            raise OrcaError(f"{node['tasks']} left after {timeout:g} s; the work goes on")
        await asyncio.sleep(LOOK_SECONDS)


@nodes.command()
@click.argument("name")
def undrain(name: str) -> None:
    """Let the node NAME take work again."""
    node = with_client(lambda client: client.undrain(name))["node"]
    show.say(f"{node['name']}: {_state(node)}")


@nodes.command()
@click.argument("name")
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE|KEY-…")
def label(name: str, labels: tuple[str, ...]) -> None:
    """Set labels of the node NAME: disk=ssd; or take them away: disk-."""
    changes: dict[str, str | None] = {}
    for text in labels:
        key, is_set, value = text.partition("=")
        if is_set:
            changes[key] = value
        elif text.endswith("-"):
            changes[text[:-1]] = None
        else:
            raise click.UsageError(f"{text}: write KEY=VALUE to set a label, KEY- to take it away")
    node = with_client(lambda client: client.label_node(name, changes))
    said = ", ".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))
    show.say(f"{node['name']}: {said or 'no labels'}")


@nodes.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also while something runs there; it is stopped.")
def rm(name: str, force: bool) -> None:
    """Remove the node NAME for good; its worker stops what it runs, and ends."""
    show.say(with_client(lambda client: client.remove_node(name, force=force))["ok"])


@nodes.command()
@click.option("--confirm", is_flag=True, help="They are gone: give their work to the others.")
def evict(confirm: bool) -> None:
    """Give up nodes that were lost all at once.

    When more than a quarter of the nodes, and more than three, fall silent together, Orca keeps their
    work where it is, because it is more likely a network than the nodes. It goes on by itself when they
    come back. If they are gone, say so with --confirm.
    """
    if confirm:
        evicted = with_client(lambda client: client.evict())
        show.say(f"given up: {', '.join(evicted)}" if evicted else "no nodes are held")
        return
    info = with_client(lambda client: client.cluster_info())
    lost = [n["name"] for n in info["nodes"] if n["state"] in ("suspect", "disconnected")]
    if not lost:
        show.say("no nodes are missing")
        return
    raise OrcaError(
        f"not heard of: {', '.join(lost)}. If they are gone, say `orca nodes evict --confirm`: those of"
        " them that are held are given up"
    )


@nodes.command()
@click.option("--ttl", callback=seconds, default="1h", show_default=True, help="How long it works.")
@click.option(
    "--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many may join."
)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Of who joins with it.")
def token(ttl: float, uses: int, labels: tuple[str, ...]) -> None:
    """Print a token with which a worker can join: orca-worker --master URL --join TOKEN.

    With --label disk=ssd its node has that label from its first moment on.
    """
    given: dict[str, str] = {}
    for text in labels:
        key, is_set, value = text.partition("=")
        if not is_set:
            raise click.UsageError(f"--label {text}: write KEY=VALUE")
        given[key] = value
    show.say(with_client(lambda client: client.join_token(ttl=ttl, uses=uses, labels=given)))
