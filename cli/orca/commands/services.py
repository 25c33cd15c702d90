"""deploy, status, scale, stop, rm."""

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.commands.progress import Progress
from orca.commands.running import REFUSED_EXIT, with_client
from orca.errors import CannotReach, Refused
from orca.manifests import read_services

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

WATCH_SECONDS = 1.0
COMMAND_COLUMNS = 40

_EXITS = {"reverted": 10, "open": 12, "paused": 11}
"""By what became of a deploy, the gravest first."""

_project = click.option("-p", "--project", help="The service's project.")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--wait/--no-wait", default=True, help="Wait until each outcome is known.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds to wait.",
)
@click.option("-m", "--message", default="", help="Kept with the revisions that this makes.")
@show.output_option
def deploy(files: tuple[str, ...], wait: bool, timeout: float, message: str, output: str) -> None:
    """Deploy the services in FILE… (JSON, YAML or TOML; `-` is standard input).

    Exits with 0 only if the new revision of every service is what runs: 1 one failed or was refused,
    10 one was reverted, 12 the time was up before the outcome was known, 11 one waits for somebody (a
    canary, say).

    \b
    orca deploy web.toml worker.yaml
    echo '{"name": "web", "image": "nginx:alpine", "port": 80}' | orca deploy -
    """
    services = [service for path in files for service in read_services(path)]
    started = time.monotonic()

    async def run(client: "Client") -> dict[str, Any]:
        deploying = asyncio.ensure_future(
            client.deploy(services, wait=wait, timeout=timeout, message=message)
        )
        if wait and output == "table":
            named = [(str(s.get("project", "default")), str(s.get("name"))) for s in services]
            await Progress(named).tell(client, deploying)
        return await deploying

    answer = with_client(run)
    if not show.structured(answer, output):
        seconds = time.monotonic() - started
        for name in answer["deployed"]:
            click.secho(f"{show.clean(name)}: running", fg="green", nl=False)
            click.echo(f"  ({seconds:.1f} s)")
        for outcome in answer.get("outcomes", []):
            name = outcome["service"]
            if outcome["state"] == "accepted":
                show.say(f"{name}: accepted; `orca status {name}` shows what becomes of it")
            elif outcome["state"] == "paused":
                show.say(f"{name}: paused: {outcome['reason']}")
                show.say(f"  `orca promote {name}`, `orca resume {name}` or `orca rollback {name}`")
        for problem in answer["errors"]:
            show.error(problem)
    sys.exit(exit_code(answer))


def exit_code(answer: dict[str, Any]) -> int:
    """The gravest of what became of the services."""
    states = [outcome["state"] for outcome in answer.get("outcomes", [])]
    told = states.count("reverted") + states.count("open")
    if len(answer["errors"]) > told:  # failed, or refused before there could be an outcome
        return REFUSED_EXIT
    return next((code for state, code in _EXITS.items() if state in states), 0)


@click.command()
@click.argument("name", required=False)
@_project
@click.option("--watch", is_flag=True, help="Again and again, until interrupted.")
@click.option("--stale", is_flag=True, help="What one master knows, also while none leads.")
@click.option("--explain", is_flag=True, help="Of NAME: what each node is for one more replica.")
@show.output_option
def status(
    name: str | None, project: str | None, watch: bool, output: str, stale: bool, explain: bool
) -> None:
    """Show all services, or the replicas of the service NAME."""
    if explain:
        if name is None or watch or stale:
            raise click.UsageError("--explain needs a NAME, and goes without --watch and --stale")
        found = with_client(lambda client: client.placement(name, project=project))
        if not show.structured(found, output):
            _show_placement(found)
        return

    async def find(client: "Client") -> list[dict[str, Any]]:
        found = await client.status(project=project, stale=stale)
        return [service for service in found if name in (None, service["name"])]

    async def run(client: "Client") -> None:
        while True:
            try:
                services = await find(client)
            except (CannotReach, Refused) as error:
                if not watch:
                    raise
                show.error(str(error))
            else:
                if watch and output == "table":
                    click.clear()
                _show_status(services, name, output)
            if not watch:
                return
            await asyncio.sleep(WATCH_SECONDS)

    with_client(run)


def _show_status(services: list[dict[str, Any]], name: str | None, output: str) -> None:
    if name is not None and not services:
        raise Refused(f"service not found: {name}; `orca status` lists all", status=404)
    if show.structured({"services": services}, output):
        return
    if not services:
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
        service["image"] or _cut(" ".join(service["command"] or [])),
        ", ".join(addresses[:2]) + more,
        service["reason"],
    ]


def _cut(text: str) -> str:
    return text if len(text) <= COMMAND_COLUMNS else f"{text[: COMMAND_COLUMNS - 1]}…"


def _show_service(service: dict[str, Any]) -> None:
    show.say(
        f"{service['name']} (project {service['project']}), revision"
        f" {service['revision']}: {service['status']},"
        f" {service['running_replicas']} of {service['desired_replicas']} replicas ready"
    )
    if service["reason"]:
        show.say(f"reason: {service['reason']}")
    if rollout := service["rollout"]:
        weight = "" if rollout["weight"] is None else f", weight {rollout['weight']}"
        show.say(
            f"rollout: {rollout['strategy']} to revision {rollout['revision']},"
            f" {rollout['state']}, {rollout['ready']} ready{weight}"
        )
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
    for task in service["tasks"]:
        _show_why(task)


def _show_why(task: dict[str, Any]) -> None:
    """Of a replica that is not well: what its probes said, its last lines, when it is tried again."""
    if task["healthy"]:
        return
    said = [task["probes"]] if task["probes"] else []
    if task["signal"]:
        said.append(f"ended by {task['signal']} (exit code {task['exit_code']})")
    if task["next_try_at"]:
        said.append(f"tried again in {max(0.0, task['next_try_at'] - time.time()):.0f} s")
    for sentence in said:
        show.say(f"replica {task['replica']}: {sentence}")
    for line in task["last_lines"]:
        show.say(f"replica {task['replica']} | {line}")


def _show_placement(found: dict[str, Any]) -> None:
    for replica in found["replicas"]:
        where = replica["node"] or f"no node: {replica['reason'] or 'not looked for yet'}"
        show.say(f"replica {replica['replica']} (revision {replica['revision']}): {where}")
    for sentence in found.get("waits") or []:
        show.say(sentence)
    if not found["nodes"]:
        click.echo("no nodes yet: make a token with `orca nodes token` and start `orca-worker`")
        return
    click.echo("\nfor one more replica, the best node first:")
    show.table(
        ["NODE", "FITS", "COST", "REPLICAS", "SPREAD", "FAILED", "AFFINITY", "IN USE", "REASON"],
        [
            [
                node["node"],
                "yes" if node["fits"] else "no",
                f"{node['cost']:g}",
                node["replicas"],
                node["spread"],
                node["failures"],
                f"{node['affinity']:g}",
                f"{node['share']:.0%}",
                node["reason"] or ("" if node["heard"] else "not heard of just now: comes last"),
            ]
            for node in found["nodes"]
        ],
    )


@click.command()
@click.argument("name")
@click.argument("replicas", type=click.IntRange(min=0))
@_project
@show.output_option
def scale(name: str, replicas: int, project: str | None, output: str) -> None:
    """Run REPLICAS replicas of the service NAME."""
    answer = with_client(lambda client: client.scale(name, replicas, project=project))
    if not show.structured(answer, output):
        number = int(answer["replicas"])
        show.say(f"{answer['service']}: {number} replica{'' if number == 1 else 's'} wanted")


@click.command()
@click.argument("names", nargs=-1)
@_project
@click.option("--all", "everything", is_flag=True, help="Every service of the cluster.")
@click.option("--purge", is_flag=True, help="Forget them too.")
@click.option("--force", is_flag=True, help="With --purge: also what other services depend on.")
@show.output_option
def stop(
    names: tuple[str, ...],
    project: str | None,
    everything: bool,
    purge: bool,
    force: bool,
    output: str,
) -> None:
    """Stop the services NAMES, all of a --project, or --all of them.

    A stopped service keeps its definition: deploy or scale it to start it again.
    """
    if everything == bool(names or project):
        raise click.UsageError("name services, or give --project, or --all (one of them)")
    if force and not (purge and names):
        raise click.UsageError("--force is for services that are named and forgotten (--purge)")

    async def run(client: "Client") -> list[str]:
        if everything:
            answer = await client.stop_all(purge=purge)
            return list(answer["stopped"])
        if not names:
            assert project is not None
            answer = await client.stop_project(project, purge=purge)
            return list(answer["stopped"])
        for name in names:
            await client.stop(name, project=project, purge=purge, force=force)
        return list(names)

    stopped = with_client(run)
    if show.structured({"stopped": stopped}, output):
        return
    for name in stopped:
        show.say(f"{name}: stopped")
    if not stopped:
        click.echo("there is nothing to stop")


@click.command()
@click.argument("names", nargs=-1, required=True)
@_project
@click.option("--force", is_flag=True, help="Also what other services depend on.")
@show.output_option
def rm(names: tuple[str, ...], project: str | None, force: bool, output: str) -> None:
    """Stop the services NAMES and forget them, those that depend on others first."""

    async def run(client: "Client") -> None:
        known = await client.status(project=project) if len(names) > 1 else []
        for name in _dependants_first(names, known):
            await client.stop(name, project=project, purge=True, force=force)
            if output == "table":
                show.say(f"{name}: removed")

    with_client(run)
    show.structured({"removed": list(names)}, output)


def _dependants_first(names: Sequence[str], known: list[dict[str, Any]]) -> list[str]:
    """None comes after what it depends on, whatever a server says."""
    needs = {name: set[str]() for name in names}
    for service in known:
        if service["name"] in needs:
            needs[service["name"]] |= needs.keys() & set(service.get("depends_on") or ())
    left, ordered = list(dict.fromkeys(names)), list[str]()
    while left:
        free = [name for name in left if not any(name in needs[other] for other in left)] or left
        ordered += free
        left = [name for name in left if name not in free]
    return ordered
