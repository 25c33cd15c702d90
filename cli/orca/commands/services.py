"""deploy, status, scale, logs, stop."""

import asyncio
import sys
import time
from typing import Any

import click

from orca import show
from orca.client import Client, OrcaError
from orca.commands.running import REFUSED_EXIT, with_client
from orca.manifests import read_services

PROGRESS_SECONDS = 1.0
WATCH_SECONDS = 1.0

_output = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print."
)
_project = click.option("-p", "--project", help="The service's project.")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--wait/--no-wait", default=True, help="Wait until each outcome is known.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait.")
@_output
def deploy(files: tuple[str, ...], wait: bool, timeout: float, output: str) -> None:
    """Deploy the services in FILE… (JSON, YAML or TOML; `-` is standard input).

    Exits with 0 only if every service runs.
    """
    services = [service for path in files for service in read_services(path)]
    started = time.monotonic()

    async def run(client: Client) -> dict[str, Any]:
        deploying = asyncio.ensure_future(client.deploy(services, wait=wait, timeout=timeout))
        if wait and output == "table":
            await _tell_progress(client, services, deploying)
        return await deploying

    answer = with_client(run)
    if output == "json":
        show.as_json(answer)
    else:
        seconds = time.monotonic() - started
        for name in answer["deployed"]:
            click.secho(f"{show.clean(name)}: running", fg="green", nl=False)
            click.echo(f"  ({seconds:.1f} s)")
        for name in answer.get("accepted", []):
            click.echo(f"{show.clean(name)}: accepted; `orca status` shows what becomes of it")
        for problem in answer["errors"]:
            show.error(problem)
    if answer["errors"]:
        sys.exit(REFUSED_EXIT)


async def _tell_progress(
    client: Client, services: list[dict[str, Any]], deploying: "asyncio.Future[Any]"
) -> None:
    """One line on standard error whenever something has changed, until the deploy has its answer."""
    wanted = {(s.get("project", "default"), s.get("name")) for s in services}
    said: dict[object, str] = {}
    while True:
        await asyncio.wait({deploying}, timeout=PROGRESS_SECONDS)
        if deploying.done():
            return
        try:
            known = await client.status()
        except OrcaError:  # a token that may not read, or no master just now
            continue
        for service in known:
            key = (service["project"], service["name"])
            line = (
                f"{service['status']}, {service['running_replicas']}/{service['desired_replicas']}"
            )
            if service["reason"]:
                line += f": {service['reason']}"
            if key in wanted and said.get(key) != line:
                said[key] = line
                click.secho(
                    f"  {show.clean(service['name'])}: {show.clean(line)}", dim=True, err=True
                )


@click.command()
@click.argument("name", required=False)
@_project
@click.option("--watch", is_flag=True, help="Again and again, until interrupted.")
@click.option("--stale", is_flag=True, help="What one master knows, also while none leads.")
@_output
def status(name: str | None, project: str | None, watch: bool, output: str, stale: bool) -> None:
    """Show all services, or the replicas of the service NAME."""
    while watch:
        click.clear()
        _show_status(name, project, output, stale)
        time.sleep(WATCH_SECONDS)
    _show_status(name, project, output, stale)


def _show_status(name: str | None, project: str | None, output: str, stale: bool) -> None:
    services = with_client(lambda client: client.status(project=project, stale=stale))
    if name is not None:
        services = [service for service in services if service["name"] == name]
        if not services:
            show.error(f"service not found: {name}; `orca status` lists all")
            sys.exit(REFUSED_EXIT)
    if output == "json":
        show.as_json({"services": services})
    elif not services:
        click.echo("no services yet: deploy one with `orca deploy FILE`")
    elif name is None:
        show.table(
            ["PROJECT", "SERVICE", "STATUS", "READY", "RUNS", "ADDRESSES", "REASON"],
            [_service_row(service) for service in services],
        )
    else:
        for service in services:
            _show_service(service)


def _service_row(service: dict[str, Any]) -> list[object]:
    addresses = [task["address"] for task in service["tasks"] if task["address"]]
    more = f" +{len(addresses) - 2}" if len(addresses) > 2 else ""
    return [
        service["project"],
        service["name"],
        service["status"],
        f"{service['running_replicas']}/{service['desired_replicas']}",
        service["image"] or " ".join(service["command"] or [])[:40],
        ", ".join(addresses[:2]) + more,
        service["reason"],
    ]


def _show_service(service: dict[str, Any]) -> None:
    click.echo(
        f"{show.clean(service['name'])} (project {show.clean(service['project'])}), revision"
        f" {service['revision']}: {service['status']},"
        f" {service['running_replicas']} of {service['desired_replicas']} replicas ready"
    )
    if service["reason"]:
        click.echo(f"reason: {show.clean(service['reason'])}")
    if service["tasks"]:
        click.echo()
        show.table(
            ["REPLICA", "STATE", "HEALTHY", "NODE", "ADDRESS", "REVISION", "TRY", "TASK", "REASON"],
            [
                [
                    task["replica"],
                    task["state"],
                    "yes" if task["healthy"] else "no",
                    task["node"],
                    task["address"],
                    task["revision"],
                    task["attempt"] + 1,
                    task["id"],
                    task["reason"],
                ]
                for task in service["tasks"]
            ],
        )


@click.command()
@click.argument("name")
@click.argument("replicas", type=click.IntRange(min=0))
@_project
@_output
def scale(name: str, replicas: int, project: str | None, output: str) -> None:
    """Run REPLICAS replicas of the service NAME."""
    answer = with_client(lambda client: client.scale(name, replicas, project=project))
    if output == "json":
        show.as_json(answer)
    else:
        click.echo(f"{show.clean(answer['service'])}: {answer['replicas']} replicas wanted")


@click.command()
@click.argument("name")
@click.option("--tail", type=click.IntRange(min=0), default=100, show_default=True, help="Lines.")
@_project
def logs(name: str, tail: int, project: str | None) -> None:
    """Print the last lines that the replicas of the service NAME have written."""

    async def run(client: Client) -> None:
        async for chunk in client.logs(name, tail=tail, project=project):
            text = chunk.decode(errors="replace")
            click.echo(show.clean(text) if sys.stdout.isatty() else text, nl=False)

    with_client(run)


@click.command()
@click.argument("names", nargs=-1)
@_project
@click.option("--all", "everything", is_flag=True, help="Every service of the cluster.")
@click.option("--purge", is_flag=True, help="Forget them too.")
@_output
def stop(
    names: tuple[str, ...], project: str | None, everything: bool, purge: bool, output: str
) -> None:
    """Stop the services NAMES, all of a --project, or --all of them.

    A stopped service keeps its definition: deploy or scale it to start it again.
    """
    if everything == bool(names or project):
        raise click.UsageError("name services, or give --project, or --all (one of them)")

    async def run(client: Client) -> list[str]:
        if everything:
            answer = await client.stop_all(purge=purge)
            return list(answer["stopped"])
        if not names:
            assert project is not None
            answer = await client.stop_project(project, purge=purge)
            return list(answer["stopped"])
        for name in names:
            await client.stop(name, project=project, purge=purge)
        return list(names)

    stopped = with_client(run)
    if output == "json":
        show.as_json({"stopped": stopped})
        return
    for name in stopped:
        click.echo(f"{show.clean(name)}: stopped")


@click.command()
@click.argument("names", nargs=-1, required=True)
@_project
def rm(names: tuple[str, ...], project: str | None) -> None:
    """Stop the services NAMES and forget them."""

    async def run(client: Client) -> None:
        for name in names:
            await client.stop(name, project=project, purge=True)
            click.echo(f"{show.clean(name)}: removed")

    with_client(run)
