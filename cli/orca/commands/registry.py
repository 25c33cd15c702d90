"""registry: login, list and logout. A password is never an argument."""

import datetime
import sys

import click

from orca import show
from orca.commands.running import with_client

_project = click.option("-p", "--project", help="Of this project; else of the whole cluster.")


@click.group()
def registry() -> None:
    """Accounts at private registries, for pulls and for look-ups of images."""


@registry.command()
@click.argument("host")
@click.option("-u", "--username", help="Asked for if it is not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@_project
@click.option("--check/--no-check", default=True, help="Ask the registry first.  [default: check]")
@show.output_option
def login(
    host: str,
    username: str | None,
    password_stdin: bool,
    project: str | None,
    check: bool,
    output: str,
) -> None:
    """Set the account that is used at the registry HOST (docker.io is Docker Hub).

    \b
    orca registry login registry.example.com:5000 -u puller
    orca registry login docker.io -u me --password-stdin --project shop <token.txt
    """
    name = username or _typed_username()
    password = _password(name, password_stdin)
    done = with_client(
        lambda client: client.registry_login(host, name, password, project=project, check=check)
    )
    if show.structured(done, output):
        return
    as_it_was = "" if done["changed"] else ", as it was"
    show.say(f"{done['host']}: {done['username']}, of {_whose(done['project'])}{as_it_was}")
    if check and not done["checked"]:
        show.say(f"kept without a check: {done['reason']}", err=True)


@registry.command("list")
@click.option("-p", "--project", help="Only what this project's images are pulled with.")
@show.output_option
def list_(project: str | None, output: str) -> None:
    """Each account, without its password."""
    found = with_client(lambda client: client.registries(project=project))
    if show.structured({"registries": found}, output):
        return
    if not found:
        click.echo("no accounts yet: `orca registry login HOST`")
        return
    show.table(
        ["REGISTRY", "PROJECT", "USERNAME", "SET", "BY"],
        [[r["host"], r["project"], r["username"], _day(r["made_at"]), r["by"]] for r in found],
    )


@registry.command()
@click.argument("host")
@_project
@show.output_option
def logout(host: str, project: str | None, output: str) -> None:
    """Forget the account at the registry HOST. What runs goes on."""
    done = with_client(lambda client: client.registry_logout(host, project=project))
    if not show.structured(done, output):
        show.say(done["ok"])


def _typed_username() -> str:
    if not sys.stdin.isatty():
        raise click.UsageError("say who: --username NAME")
    typed: str = click.prompt("Username", err=True)
    return typed


def _password(username: str, is_sent: bool) -> str:
    if is_sent:
        sent = sys.stdin.read().removesuffix("\n").removesuffix("\r")
        if not sent:
            raise click.UsageError("standard input is empty: send the password there")
        return sent
    if not sys.stdin.isatty():
        raise click.UsageError("send the password to standard input, with --password-stdin")
    typed: str = click.prompt(f"Password of {username}", hide_input=True, err=True)
    return typed


def _whose(project: str | None) -> str:
    return f"project {project}" if project else "the whole cluster"


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
