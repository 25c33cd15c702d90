"""certs: the certificates of domains. A key is never an argument."""

import datetime
import sys
from pathlib import Path
from typing import Any

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
    orca certs acme on --email me@example.com --agree
    orca certs set shop --cert fullchain.pem --key key.pem
    """
    if context.invoked_subcommand is not None:
        return
    found = with_client(lambda client: client.certificates(project=project))
    if show.structured(found, output):
        return
    if found["certificates"]:
        show.table(
            ["NAME", "PROJECT", "DOMAINS", "SHOWN FOR", "UNTIL", "FROM", "REASON"],
            [
                [
                    each["name"],
                    each["project"],
                    ", ".join(each["domains"]),
                    ", ".join(each["hosts"]),
                    _day(each["not_after"]),
                    each["source"],
                    each["reason"],
                ]
                for each in found["certificates"]
            ],
        )
    else:
        click.echo(
            "no certificates yet: `orca certs acme on --agree`, or"
            " `orca certs set NAME --cert FILE --key FILE`"
        )
    for each in found["without"]:
        again = f"; tried again {_day(each['tries_at'])}" if each["tries_at"] else ""
        show.say(f"without HTTPS: {each['domain']}: {each['reason']}{again}")


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


@certs.command()
@click.argument("name")
@show.output_option
def renew(name: str, output: str) -> None:
    """Order the certificate NAME anew now; the one that there is goes on being shown.

    \b
    orca certs renew acme-app-example-com
    """
    done = with_client(lambda client: client.renew_certificate(name))
    if not show.structured(done, output):
        show.say(done["ok"])


@certs.group(invoke_without_command=True)
@show.output_option
@click.pass_context
def acme(context: click.Context, output: str) -> None:
    """From whom certificates are ordered for all routed domains (ACME, such as Let's Encrypt).

    \b
    orca certs acme
    orca certs acme on --email me@example.com --agree
    """
    if context.invoked_subcommand is not None:
        return
    found = with_client(lambda client: client.acme())
    if not show.structured(found, output):
        _show_acme(found)


@acme.command()
@click.option("--email", help="Where the authority writes to.")
@click.option("--agree", is_flag=True, help="To the authority's terms of service.")
@click.option("--staging", is_flag=True, help="Let's Encrypt's for tests: nobody trusts those.")
@click.option("--directory", metavar="URL", help="Of another authority than Let's Encrypt.")
@click.option("--ca", type=_FILE, help="PEM: whose directory is trusted, of a private authority.")
@show.output_option
def on(
    email: str | None,
    agree: bool,
    staging: bool,
    directory: str | None,
    ca: Path | None,
    output: str,
) -> None:
    """Order certificates for all routed domains, and renew them. Port 80 must be reachable by their names.

    \b
    orca certs acme on --email me@example.com --agree
    orca certs acme on --agree --directory https://ca.internal/acme/directory --ca ca.pem
    """
    if not agree:
        raise click.UsageError("read the authority's terms of service, then say --agree")
    if staging and directory is not None:
        raise click.UsageError("--staging is Let's Encrypt's: give it or --directory")
    trusted = _text(ca) if ca is not None else None
    done = with_client(
        lambda client: client.set_acme(
            agree=agree, email=email, directory=directory, staging=staging, ca=trusted
        )
    )
    if not show.structured(done, output):
        _show_acme(done["acme"])


@acme.command()
@show.output_option
def off(output: str) -> None:
    """Order none any more; those that there are stay until they expire."""
    done = with_client(lambda client: client.remove_acme())
    if not show.structured(done, output):
        show.say(done["ok"])


def _show_acme(found: dict[str, Any]) -> None:
    if not found["is_on"]:
        show.say("off: begin with `orca certs acme on --email me@example.com --agree`")
        return
    account = found["account"] or "none yet; it is made with the first order"
    show.say(f"on: certificates are ordered from {found['directory']}")
    show.say(f"account: {account}" + (f", {found['email']}" if found["email"] else ""))


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
