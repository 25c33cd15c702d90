"""context: several clusters, each with a name."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from orca import show
from orca.commands.running import REFUSED_EXIT
from orca.context import addresses, contexts_file, read_contexts


@click.group(invoke_without_command=True)
@click.pass_context
def context(ctx: click.Context) -> None:
    """Name clusters and choose which one is spoken to.

    \b
    orca context add prod --api http://m1:6880,http://m2:6880 --token-file ~/prod.token
    orca context use prod
    orca --context test status
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_contexts)


@context.command("list")
@show.output_option
def list_contexts(output: str = "table") -> None:
    """The clusters that have a name here; the one in use has a star."""
    kept = read_contexts()
    if show.structured(kept, output):
        return
    if not kept["contexts"]:
        click.echo("none yet: `orca context add NAME --api http://host:6880 --token-file FILE`")
        return
    show.table(
        ["", "CONTEXT", "API", "TOKEN"],
        [
            [
                "*" if name == kept["current"] else "",
                name,
                ", ".join(c["api"]),
                show.path(c["token_file"] or ""),
            ]
            for name, c in sorted(kept["contexts"].items())
        ],
    )


@context.command()
@click.argument("name")
@click.option("--api", required=True, help="Masters' addresses, with commas.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Where its token is kept.")
def add(name: str, api: str, token_file: Path | None) -> None:
    """Keep the cluster as NAME, and use it from now on."""
    kept = read_contexts()
    kept["contexts"][name] = {
        "api": addresses(api),
        "token_file": str(token_file.absolute()) if token_file else None,
    }
    kept["current"] = name
    _write(kept)
    show.say(f"{name} is used from now on")


@context.command()
@click.argument("name")
def use(name: str) -> None:
    """Speak to the cluster NAME from now on; `-` is none, so the local one."""
    kept = read_contexts()
    if name != "-":
        _check(kept, name)
    kept["current"] = None if name == "-" else name
    _write(kept)
    show.say("no context is used" if name == "-" else f"{name} is used from now on")


@context.command()
@click.argument("name")
def rm(name: str) -> None:
    """Forget the cluster NAME here; nothing happens to the cluster."""
    kept = read_contexts()
    _check(kept, name)
    del kept["contexts"][name]
    if kept["current"] == name:
        kept["current"] = None
    _write(kept)
    show.say(f"{name} is forgotten")


def _check(kept: dict[str, Any], name: str) -> None:
    if name not in kept["contexts"]:
        show.error(f"no context is named {name}; `orca context` lists them")
        sys.exit(REFUSED_EXIT)


def _write(kept: dict[str, Any]) -> None:
    file = contexts_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(kept, indent=2) + "\n")
    temporary.rename(file)
