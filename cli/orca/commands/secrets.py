"""secrets: set, list and remove them, and see who uses them. A value is never an argument."""

import asyncio
import datetime
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from orca import show
from orca.commands.running import with_client
from orca.errors import OrcaError

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

LOOK_SECONDS = 0.5

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.ASCII | re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}

_project = click.option("-p", "--project", help="Of this project; else of the whole cluster.")
_no_roll = click.option(
    "--no-roll", is_flag=True, help="Leave the services that use it as they are."
)


@click.group(invoke_without_command=True)
@click.pass_context
def secrets(ctx: click.Context) -> None:
    """Show the secrets that services use as ${secrets.KEY}."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_secrets)


@secrets.command("list")
@click.option("-p", "--project", help="Only what this project's services can use.")
@show.output_option
def list_secrets(project: str | None = None, output: str = "table") -> None:
    """Each secret, without its value."""
    found = with_client(lambda client: client.secrets(project=project))
    if show.structured(found, output):
        return
    rows = [
        [s["key"], s["project"], s["version"], s["size"], _day(s["made_at"]), s["by"]]
        for s in found["secrets"]
    ]
    show.table(["SECRET", "PROJECT", "VERSION", "BYTES", "SET", "BY"], rows)
    if left := found["data_key"]["left"]:
        show.say(f"{left} values are still sealed with an older data key")


@secrets.command("set")
@click.argument("key")
@_project
@_no_roll
@show.output_option
def set_secret(key: str, project: str | None, no_roll: bool, output: str) -> None:
    """Set the secret KEY to what comes on standard input, or is typed.

    One line break at the end is left out. The services that use it are rolled out.

    \b
    orca secrets set DB_PASSWORD <password.txt
    orca secrets set TLS_KEY --project shop --no-roll <key.pem
    """
    value = _value(key)
    done = with_client(
        lambda client: client.set_secret(key, value, project=project, roll=not no_roll)
    )
    if not show.structured(done, output):
        _tell(done)


@secrets.command("rm")
@click.argument("key")
@_project
@click.option("--force", is_flag=True, help="Also while services use it.")
@show.output_option
def remove(key: str, project: str | None, force: bool, output: str) -> None:
    """Remove the secret KEY with all of its versions."""
    done = with_client(lambda client: client.remove_secret(key, project=project, force=force))
    if show.structured(done, output):
        return
    show.say(done["ok"])
    if done["users"]:
        show.say(f"the next replicas of {', '.join(done['users'])} will fail", err=True)


@secrets.command("import")
@click.argument("file", type=click.File(encoding="utf-8"))
@_project
@_no_roll
@show.output_option
def import_file(file: Any, project: str | None, no_roll: bool, output: str) -> None:
    """Set a secret for each KEY=value of a dotenv FILE (- for standard input).

    Values may be in quotes, double ones with \\n; lines that begin with # say nothing.
    """
    try:
        pairs = dict(read_dotenv(file.read()))
    except ValueError as error:
        raise click.UsageError(f"{file.name}: {error}") from error

    async def run(client: "Client") -> list[dict[str, Any]]:
        done = [
            await client.set_secret(key, value, project=project, roll=False)
            for key, value in pairs.items()
        ]
        if no_roll:
            return done
        # Only once all are set, so that who uses several of them is rolled out once.
        for each in done:
            if each["outdated"]:
                await client.set_secret(each["key"], pairs[each["key"]], project=project)
                each |= {"rolling": each["outdated"], "outdated": []}
        return done

    done = with_client(run)
    if show.structured({"secrets": done}, output):
        return
    for each in done:
        _tell(each)


@secrets.command()
@click.option("-p", "--project", help="Only what this project's services use.")
@show.output_option
def usage(project: str | None, output: str) -> None:
    """Which services use which secret, and the versions that they have."""
    found = with_client(lambda client: client.secret_usage(project=project))
    if show.structured({"secrets": found}, output):
        return
    rows: list[list[object]] = []
    for each in found:
        version = "removed" if each["version"] is None else each["version"]
        for user in each["users"] or [None]:
            running = ", ".join(map(str, user["running"])) if user else ""
            name = f"{user['project']}/{user['service']}" if user else "(nobody)"
            rows.append([each["key"], each["project"], version, name, running])
    show.table(["SECRET", "PROJECT", "VERSION", "SERVICE", "RUNS WITH"], rows)


@secrets.command("rotate-key")
@click.option(
    "--wrapping", is_flag=True, help="The key-encryption key, which every master has in a file."
)
@click.option("--wait", is_flag=True, help="Until nothing is left that the old key has sealed.")
@click.option("--status", "only_status", is_flag=True, help="With --wrapping: only tell how it is.")
@show.output_option
def rotate_key(wrapping: bool, wait: bool, only_status: bool, output: str) -> None:
    """Seal all secrets with a new data key; services notice nothing.

    With --wrapping, replace the key with which data keys, the CA's key, secrets of webhooks and passwords of
    registries are wrapped. The masters that are there get it first; one that is away gets it when it is back.
    The old one is deleted: keep it with the backups that were made before.
    """
    if only_status and (wait or not wrapping):
        raise click.UsageError("--status only looks, and takes --wrapping")
    if wrapping:
        _rotate_wrapping_key(wait, only_status, output)
        return

    async def run(client: "Client") -> dict[str, Any]:
        made = await client.rotate_secrets_key()
        while wait and made["left"]:
            await asyncio.sleep(LOOK_SECONDS)
            made = (await client.secrets())["data_key"]
        return made

    made = with_client(run)
    if not show.structured(made, output):
        left = f"; {made['left']} values are being sealed anew" if made["left"] else ""
        show.say(f"data key {made['number']} seals from now on{left}")


def _rotate_wrapping_key(wait: bool, only_status: bool, output: str) -> None:
    async def run(client: "Client") -> dict[str, Any]:
        found = await (client.wrapping_key() if only_status else client.rotate_wrapping_key())
        while wait and found["step"] != "done":
            await asyncio.sleep(LOOK_SECONDS)
            found = await client.wrapping_key()
        if wait and found["given_up"]:
            raise OrcaError(f"the key was not replaced: {found['given_up']}")
        return found

    found = with_client(run)
    if not show.structured(found, output):
        for sentence in wrapping_sentences(found):
            show.say(sentence)


def wrapping_sentences(found: dict[str, Any]) -> list[str]:
    """What `GET /api/v1/cluster/wrapping-key` says, for people."""
    since = f", since {_day(found['since'])}" if found["since"] else ""
    said = [f"key {found['current']} wraps{since}"]
    if found["step"] == "handing":
        said.append("step 1 of 2: another key is handed out to the masters")
    elif found["step"] == "wrapping":
        said.append("step 2 of 2: what the old key has wrapped is wrapped anew")
    if found["given_up"]:
        said.append(f"the last change came to nothing: {found['given_up']}")
    return [*said, *(f"  master {each['name']}: {each['reason']}" for each in found["missing"])]


def read_dotenv(text: str) -> Iterator[tuple[str, str]]:
    """(key, value) of each line; a value in quotes may go over several. Raises ValueError, without values."""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise ValueError(f"line {number} is not KEY=value")
        key, value = match[1], match[2]
        if value[:1] not in ("'", '"'):
            value = re.split(r"\s+#", value, maxsplit=1)[0].rstrip()
        else:
            while (whole := _unquoted(value)) is None:
                following = next(lines, None)
                if following is None:
                    raise ValueError(f"line {number}: the quote of {key} is not closed")
                value += "\n" + following[1]
            value = whole
        if not value:
            raise ValueError(f"line {number}: {key} is empty; `orca secrets rm` removes a secret")
        yield key, value


def _unquoted(text: str) -> str | None:
    """What is in the quotes; None: they are not closed. What comes after must be a comment."""
    quote, said, at = text[0], "", 1
    while at < len(text):
        char = text[at]
        if char == quote:
            rest = text[at + 1 :].strip()
            if rest and not rest.startswith("#"):
                raise ValueError("something stands behind a closing quote")
            return said
        if char == "\\" and quote == '"' and at + 1 < len(text):
            at += 1
            char = _ESCAPES.get(text[at], text[at])
        said += char
        at += 1
    return None


def _value(key: str) -> bytes | str:
    if sys.stdin.isatty():
        typed: str = click.prompt(
            f"Value of {key}", hide_input=True, confirmation_prompt=True, err=True
        )
        return typed
    raw = sys.stdin.buffer.read()
    raw = raw.removesuffix(b"\r\n") if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
    if not raw:
        raise click.UsageError("standard input is empty: send the value there")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _tell(done: dict[str, Any]) -> None:
    name = f"{done['project']}/{done['key']}" if done["project"] else done["key"]
    changed = "" if done["changed"] else ", as it was"
    show.say(f"{name}: version {done['version']}{changed}")
    if done["rolling"]:
        show.say(
            f"rolled out: {', '.join(done['rolling'])}; `orca deployments NAME` tells how it goes"
        )
    if done["outdated"]:
        show.say(f"still with an older version: {', '.join(done['outdated'])}; `orca restart NAME`")


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
