"""certs: the certificates of domains. A key is never an argument."""

import datetime
import sys
from pathlib import Path

import click

from orca import show
from orca.commands.running import with_client

_FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)


@click.group(invoke_without_command=True)
@click.option("-p", "--project", help="Only what this project's domains are shown with.")
@show.output_option
@click.pass_context
def certs(context: click.Context, project: str | None, output: str) -> None:
    """Certificates with which nodes answer HTTPS, and the domains that have none.

    \b
    orca certs
    orca certs set shop --cert fullchain.pem --key key.pem
    """
    if context.invoked_subcommand is not None:
        return
    found = with_client(lambda client: client.certificates(project=project))
    if show.structured(found, output):
        return
    if found["certificates"]:
        show.table(
            ["NAME", "PROJECT", "DOMAINS", "SHOWN FOR", "UNTIL", "FROM"],
            [
                [
                    each["name"],
                    each["project"],
                    ", ".join(each["domains"]),
                    ", ".join(each["hosts"]),
                    _day(each["not_after"]),
                    each["source"],
                ]
                for each in found["certificates"]
            ],
        )
    else:
        click.echo("no certificates yet: `orca certs set NAME --cert FILE --key FILE`")
    if found["without"]:
        show.say(f"without HTTPS: {', '.join(found['without'])}")


@certs.command("set")
@click.argument("name")
@click.option("--cert", required=True, type=_FILE, help="PEM: the host's own first, or - .")
@click.option("--key", required=True, type=_FILE, help="PEM, not encrypted, or - .")
@click.option("-p", "--project", help="For this project's domains; else for all.")
@show.output_option
def set_(name: str, cert: Path, key: Path, project: str | None, output: str) -> None:
    """Set the certificate NAME and its key, or renew it; no connection is cut.

    \b
    orca certs set shop --cert fullchain.pem --key key.pem
    """
    if str(cert) == str(key) == "-":
        raise click.UsageError("only one of both can be read from standard input")
    chain, private = _text(cert), _text(key)
    done = with_client(lambda client: client.set_certificate(name, chain, private, project=project))
    if show.structured(done, output):
        return
    told = done["certificate"]
    hosts = ", ".join(told["hosts"]) or "no domain yet"
    as_it_was = "" if done["changed"] else ", as it was"
    show.say(f"{name}: shown for {hosts}, until {_day(told['not_after'])}{as_it_was}")


@certs.command()
@click.argument("name")
@show.output_option
def rm(name: str, output: str) -> None:
    """Forget the certificate NAME: its domains have HTTPS no longer, unless another fits."""
    done = with_client(lambda client: client.remove_certificate(name))
    if not show.structured(done, output):
        show.say(done["ok"])


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
