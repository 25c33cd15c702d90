"""plan, promote, rollback, pause, resume, restart, start, history, diff, deployments."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.commands.running import with_client
from orca.errors import CannotReach, Refused
from orca.manifests import read_services

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

LOOK_SECONDS = 0.3
REVERTED_EXIT, PAUSED_EXIT, DEADLINE_EXIT = 10, 11, 12

_ENDED = ("succeeded", "reverted", "superseded", "cancelled")

_project = click.option("-p", "--project", help="The service's project.")
_wait = click.option("--wait/--no-wait", default=True, help="Wait until it has ended.")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds to wait.",
)

Doing = Callable[["Client"], Awaitable[dict[str, Any]]]


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@show.output_option
def plan(files: tuple[str, ...], output: str) -> None:
    """What `orca deploy FILE…` would do, without doing it.

    Exits with 1 if something of it could not be done now.
    """
    services = [service for path in files for service in read_services(path)]
    answer = with_client(lambda client: client.plan(services))
    if not show.structured(answer, output):
        for planned in answer["plan"]:
            _show_planned(planned)
        for problem in answer["errors"]:
            show.error(problem)
    is_blocked = any(planned["blocked"] for planned in answer["plan"])
    sys.exit(1 if answer["errors"] or is_blocked else 0)


def _show_planned(planned: dict[str, Any]) -> None:
    before, after = planned["replicas_before"], planned["replicas"]
    count = f"{before} to {after}" if before != after else f"{after}"
    noun = "replica" if after == 1 else "replicas"
    name, action = planned["service"], planned["action"]
    show.say(f"{name}: {action}, revision {planned['revision']}, {count} {noun}")
    if planned["fields"]:
        show.say(f"  changed: {', '.join(planned['fields'])}")
    if planned["strategy"]:
        reason = f" ({planned['reason']})" if planned["reason"] else ""
        show.say(f"  {planned['strategy']}, {planned['order']}{reason}")
    for sentence in planned.get("waits") or []:
        show.say(f"  {sentence}")
    if planned["blocked"]:
        show.error(f"{planned['service']}: {planned['blocked']}")


@click.command()
@click.argument("name")
@click.option("--step", is_flag=True, help="Only to the canary's next step.")
@_project
@_wait
@_timeout
@show.output_option
def promote(
    name: str, step: bool, project: str | None, wait: bool, timeout: float, output: str
) -> None:
    """Give the canary's revision of the service NAME to all of its replicas."""
    _do(
        name,
        project,
        lambda client: client.promote(name, step=step, project=project),
        timeout if wait and not step else None,
        output,
    )


@click.command()
@click.argument("name")
@click.option("--to", type=click.IntRange(min=1), help="A revision of `orca history NAME`.")
@_project
@_wait
@_timeout
@show.output_option
def rollback(
    name: str, to: int | None, project: str | None, wait: bool, timeout: float, output: str
) -> None:
    """Take the service NAME back: away with a canary or an open rollout, else to its last stable revision."""
    _do(
        name,
        project,
        lambda client: client.rollback(name, revision=to, project=project),
        timeout if wait else None,
        output,
        is_back=True,
    )


@click.command()
@click.argument("name")
@_project
@show.output_option
def pause(name: str, project: str | None, output: str) -> None:
    """Hold the rollout of the service NAME where it is."""
    _do(name, project, lambda client: client.pause(name, project=project), None, output)


@click.command()
@click.argument("name")
@_project
@_wait
@_timeout
@show.output_option
def resume(name: str, project: str | None, wait: bool, timeout: float, output: str) -> None:
    """Let the paused rollout of the service NAME go on."""
    seconds = timeout if wait else None
    _do(name, project, lambda client: client.resume(name, project=project), seconds, output)


@click.command()
@click.argument("name")
@_project
@_wait
@_timeout
@show.output_option
def restart(name: str, project: str | None, wait: bool, timeout: float, output: str) -> None:
    """Replace all replicas of the service NAME by new ones, as a rollout."""
    seconds = timeout if wait else None
    _do(name, project, lambda client: client.restart(name, project=project), seconds, output)


@click.command()
@click.argument("names", nargs=-1, required=True)
@_project
@show.output_option
def start(names: tuple[str, ...], project: str | None, output: str) -> None:
    """Run the stopped services NAMES again."""

    async def run(client: "Client") -> None:
        for name in names:
            await client.start(name, project=project)
            if output == "table":
                show.say(f"{name}: started; `orca status {name}` shows what becomes of it")

    with_client(run)
    show.structured({"started": list(names)}, output)


def _do(
    name: str,
    project: str | None,
    doing: Doing,
    timeout: float | None,
    output: str,
    *,
    is_back: bool = False,
) -> None:
    """Ask for it; with a timeout (seconds) wait until its deployment has ended or waits for somebody."""

    async def run(client: "Client") -> dict[str, Any]:
        done = await doing(client)
        if timeout is None:
            return done
        return done | {"ended": await _ended(client, name, project, done["deployment"], timeout)}

    answer = with_client(run)
    ended = answer.pop("ended", None)
    if not show.structured(answer | ({} if ended is None else {"ended": ended}), output):
        show.say(f"{answer['ok']}: revision {answer['revision']}")
        if ended is not None:
            _tell(name, ended)
    if ended is not None:
        sys.exit(_exit(ended, is_back=is_back))


async def _ended(
    client: "Client", name: str, project: str | None, number: int, timeout: float
) -> dict[str, Any]:
    """The deployment when it has ended or is paused; as it is when the time is up."""
    until = time.monotonic() + timeout
    found: dict[str, Any] = {}
    while True:
        try:
            deployments = await client.deployments(name, project=project)
            found = next((d for d in deployments if d["deployment"] == number), found)
        except CannotReach:
            if time.monotonic() >= until:
                raise
        else:
            if not found:
                raise Refused(f"deployment {number} of {name} is not known any more", status=404)
            if found["state"] in (*_ENDED, "paused") or time.monotonic() >= until:
                return found
        await asyncio.sleep(LOOK_SECONDS)


def _tell(name: str, deployment: dict[str, Any]) -> None:
    state, reason = deployment["state"], deployment["reason"]
    if state == "succeeded":
        show.say(f"{name}: revision {deployment['revision']} is what runs")
    else:
        show.say(f"{name}: {state}" + (f": {reason}" if reason else ""))


def _exit(deployment: dict[str, Any], *, is_back: bool) -> int:
    state = deployment["state"]
    if state == "reverted":
        return 0 if is_back else REVERTED_EXIT
    return {"succeeded": 0, "paused": PAUSED_EXIT}.get(
        state, 1 if state in _ENDED else DEADLINE_EXIT
    )


@click.command()
@click.argument("name")
@_project
@show.output_option
def history(name: str, project: str | None, output: str) -> None:
    """Every revision of the service NAME, the newest first."""
    found = with_client(lambda client: client.revisions(name, project=project))
    if show.structured({"revisions": found}, output):
        return
    show.table(
        ["REVISION", "STATE", "MADE", "BY", "IMAGE", "MESSAGE"],
        [
            [
                revision["revision"],
                _standing(revision),
                _when(revision["made_at"]),
                revision["by"],
                _image(revision) or " ".join(revision["spec"].get("command", [])),
                revision["message"],
            ]
            for revision in found
        ],
    )


def _image(revision: dict[str, Any]) -> str:
    """With the beginning of its digest, as far as it is known."""
    image = str(revision["spec"].get("image") or "")
    digest = revision.get("image_digest")
    return f"{image.partition('@')[0]}@{str(digest)[:19]}" if image and digest else image


def _standing(revision: dict[str, Any]) -> str:
    words = [word for word in ("current", "stable", "rejected") if revision[word]]
    return ", ".join(words) or "never ran in full"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


@click.command()
@click.argument("name")
@click.argument("first", type=click.IntRange(min=1))
@click.argument("second", type=click.IntRange(min=1))
@_project
@show.output_option
def diff(name: str, first: int, second: int, project: str | None, output: str) -> None:
    """What is different between the revisions FIRST and SECOND of the service NAME."""
    found = with_client(lambda client: client.revisions(name, project=project))
    specs = {
        revision["revision"]: revision["spec"]
        | ({"image_digest": revision["image_digest"]} if revision.get("image_digest") else {})
        for revision in found
    }
    if missing := [number for number in (first, second) if number not in specs]:
        raise Refused(f"{name} has no revision {missing[0]}; see `orca history {name}`", status=404)
    before, after = _flat(specs[first]), _flat(specs[second])
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    rows = [{"field": k, "from": before.get(k), "to": after.get(k)} for k in changed]
    if show.structured({"changes": rows}, output):
        return
    if not rows:
        show.say(f"revisions {first} and {second} of {name} are the same")
    for row in rows:
        if row["from"] is not None:
            click.secho(show.clean(f"- {row['field']}: {row['from']}"), fg="red")
        if row["to"] is not None:
            click.secho(show.clean(f"+ {row['field']}: {row['to']}"), fg="green")


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Every leaf under its dotted path."""
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, part in value.items():
            found |= _flat(part, f"{path}.{key}" if path else str(key))
        return found
    return {path: " ".join(map(str, value)) if isinstance(value, list) else str(value)}


@click.command()
@click.argument("name")
@click.option("--all", "everything", is_flag=True, help="Not only the last one.")
@_project
@show.output_option
def deployments(name: str, everything: bool, project: str | None, output: str) -> None:
    """How the last change of the service NAME went, with the sentence of every decision."""
    found = with_client(lambda client: client.deployments(name, project=project))
    shown = found if everything else found[:1]
    if show.structured({"deployments": shown}, output):
        return
    if not shown:
        show.say(f"{name} has no deployments yet")
    for deployment in shown:
        base = f" from {deployment['base']}" if deployment["base"] else ""
        show.say(
            f"deployment {deployment['deployment']}: {deployment['kind']} to revision"
            f" {deployment['revision']}{base}, {deployment['strategy']}, {deployment['order']}:"
            f" {deployment['state']}"
        )
        for sentence in deployment["said"]:
            show.say(f"  {_when(sentence['at'])}  {sentence['text']}")
