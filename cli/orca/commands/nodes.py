"""nodes: list them, and make a token for a new one."""

from typing import Any

import click

from orca import show
from orca.commands.running import with_client
from orca.commands.tokens import seconds


@click.group(invoke_without_command=True)
@show.output_option
@click.pass_context
def nodes(ctx: click.Context, output: str) -> None:
    """Show the cluster's nodes; `orca nodes token` lets a new one join."""
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
        ["NODE", "STATE", "RUNTIMES", "CPU", "MEMORY", "ADDRESS", "VERSION", "REASON"],
        [_row(node) for node in info["nodes"]],
    )


def _row(node: dict[str, Any]) -> list[object]:
    return [
        node["name"],
        node["state"],
        ", ".join(node["runtimes"]),
        f"{node['capacity']['cpu']:g}",
        show.size(node["capacity"]["memory_bytes"]),
        node["address"],
        node["version"],
        node["reason"],
    ]


@nodes.command()
@click.option("--ttl", callback=seconds, default="1h", show_default=True, help="How long it works.")
@click.option(
    "--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many may join."
)
def token(ttl: float, uses: int) -> None:
    """Print a token with which a worker can join: orca-worker --master URL --join TOKEN."""
    show.say(with_client(lambda client: client.join_token(ttl=ttl, uses=uses)))
