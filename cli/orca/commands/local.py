"""up, down: a cluster on this machine."""

import asyncio
import sys
from pathlib import Path

import click

from orca import local, show
from orca.client import Client
from orca.commands.running import REFUSED_EXIT
from orca.context import local_folders
from orca.errors import OrcaError
from orca.sample import NAME, sample

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cluster's folder (~/.orca).",
)


@click.command()
@click.option(
    "--masters", type=click.IntRange(1, 7), default=1, show_default=True, help="How many."
)
@click.option(
    "--workers", type=click.IntRange(min=1, max=50), default=1, show_default=True, help="How many."
)
@_data_dir
@click.option(
    "--port",
    type=click.IntRange(1024, 65000),
    default=6880,
    show_default=True,
    envvar="ORCA_PORT",
    help="The first master's API; each master takes three in a row (ORCA_PORT).",
)
@click.option(
    "--ingress-port",
    type=click.IntRange(1024, 65000),
    help=f"Where services with a domain are reached; else the port plus {local.INGRESS_OFFSET}.",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "docker", "process"]),
    default="auto",
    show_default=True,
    help="Containers, plain processes, or what is there.",
)
@click.option("--sample", "with_sample", is_flag=True, help="Deploy a sample service too.")
def up(
    masters: int,
    workers: int,
    data_dir: Path | None,
    port: int,
    ingress_port: int | None,
    runtime: str,
    with_sample: bool,
) -> None:
    """Start a real cluster here; on the same folder again, bring it back with all its state.

    \b
    orca up --sample
    orca up --masters 3 --workers 2
    """
    folder = _folder(data_dir)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        cluster = asyncio.run(
            local.up(
                folder,
                masters=masters,
                workers=workers,
                port=port,
                runtime=runtime,
                say=click.echo,
                ingress_port=ingress_port or 0,
            )
        )
    except (local.CannotStart, OrcaError, TimeoutError) as error:
        said = (
            str(error)
            or f"not ready within {local.START_SECONDS:g} s; look at the logs in {folder}"
        )
        show.error(said)
        sys.exit(REFUSED_EXIT)
    click.secho(f"cluster is ready: {', '.join(cluster.api)}", fg="green")
    click.echo(f"token: {show.path(cluster.token_file)}")
    if with_sample:
        asyncio.run(_deploy_sample(folder, cluster))


async def _deploy_sample(folder: Path, cluster: local.Cluster) -> None:
    async with Client(cluster.api, cluster.token()) as client:
        info = await client.cluster_info()
        containers = any("docker" in node["runtimes"] for node in info["nodes"])
        service, why = sample(folder, containers=containers)
        answer = await client.deploy([service])
        if answer["errors"]:
            show.error("; ".join(answer["errors"]))
            sys.exit(REFUSED_EXIT)
        show.say(f"sample service `{NAME}` runs as {why}")
        for running in await client.status():
            if running["name"] == NAME:
                for task in running["tasks"]:
                    show.say(f"  replica {task['replica']}: http://{task['address']}/")


@click.command()
@_data_dir
def down(data_dir: Path | None) -> None:
    """Stop the local cluster and everything that runs on its nodes; `orca up` brings it back."""
    folder = _folder(data_dir)
    try:
        was_running = local.down(folder, say=click.echo)
    except local.CannotStart as error:
        show.error(str(error))
        sys.exit(REFUSED_EXIT)
    stays = f"stopped; its state stays in {show.path(folder)}"
    click.echo(stays if was_running else "nothing was running")


def _folder(given: Path | None) -> Path:
    folder = given or next((f for f in local_folders() if (f / "cluster.json").exists()), None)
    return (folder or local_folders()[-1]).absolute()
