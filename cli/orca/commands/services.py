"""deploy, status, scale, logs, stop."""

import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import click

from orca import show
from orca.client import Client
from orca.commands.running import REFUSED_EXIT, with_client

_output = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print."
)
_project = click.option("-p", "--project", help="The service's project.")


def read_services(path: str) -> list[dict[str, Any]]:
    """The services of a JSON or TOML file (`-`: standard input): one, a list, or {services: […]}.

    Raises click.UsageError.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        found: Any = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise click.UsageError(f"{path}: not valid: {error}") from error
    if isinstance(found, dict) and "services" in found:
        found = found["services"]
    elif isinstance(found, dict) and "service" in found:
        found = found["service"]
    services = found if isinstance(found, list) else [found]
    if not all(isinstance(item, dict) for item in services):
        raise click.UsageError(f"{path}: a service is an object with name, image, replicas …")
    return services


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--wait/--no-wait", default=True, help="Wait until each outcome is known.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait.")
@_output
def deploy(files: tuple[str, ...], wait: bool, timeout: float, output: str) -> None:
    """Deploy the services in FILE… (JSON or TOML; `-` is standard input).

    Exits with 0 only if every service runs.
    """
    services = [service for path in files for service in read_services(path)]
    started = time.monotonic()
    answer = with_client(lambda client: client.deploy(services, wait=wait, timeout=timeout))
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


@click.command()
@click.argument("name", required=False)
@_project
@click.option("--stale", is_flag=True, help="What one master knows, also while none leads.")
@_output
def status(name: str | None, project: str | None, output: str, stale: bool) -> None:
    """Show all services, or the replicas of the service NAME."""
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
