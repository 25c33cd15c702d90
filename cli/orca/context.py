"""Which cluster the command line talks to: flags, then `ORCA_API`/`ORCA_TOKEN`, then the context that is
in use (or `ORCA_CONTEXT`), then a local cluster."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from orca import show

DEFAULT_API = "http://127.0.0.1:6880"


@dataclass(frozen=True, slots=True)
class Target:
    """`api`: every master's address. `way_on`: what to do if none of them answers."""

    api: list[str]
    token: str | None
    way_on: str = ""


def local_folders() -> list[Path]:
    """Where `orca up` may have put a cluster, nearest first."""
    named = os.environ.get("ORCA_DATA_DIR")
    return [Path(named)] if named else [Path(".orca"), Path.home() / ".orca"]


def contexts_file() -> Path:
    """Where `orca context` keeps what it knows."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "orca" / "contexts.json"


def read_contexts() -> dict[str, Any]:
    """`{"current": name or None, "contexts": {name: {"api": [...], "token_file": path or None}}}`."""
    try:
        kept: dict[str, Any] = json.loads(contexts_file().read_text())
        return {"current": kept["current"], "contexts": dict(kept["contexts"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"current": None, "contexts": {}}


def find_target(api: str | None, token: str | None, *, context: str | None = None) -> Target:
    """Raises click.UsageError: what is named does not exist, or is no address."""
    token = token or os.environ.get("ORCA_TOKEN")
    api = api or (None if context else os.environ.get("ORCA_API"))
    if api:
        return Target(addresses(api), token)
    kept = read_contexts()
    name = context or os.environ.get("ORCA_CONTEXT") or kept["current"]
    if name:
        chosen = kept["contexts"].get(name)
        if chosen is None:
            raise click.UsageError(f"no context is named {name}; `orca context` lists them")
        way_on = f"(context {name}: `orca context use -` speaks to the local cluster)"
        return Target(list(chosen["api"]), token or _token_in(chosen["token_file"]), way_on)
    for folder in local_folders():
        try:
            cluster = json.loads((folder / "cluster.json").read_text())
            own = Path(cluster["token_file"]).read_text().strip()
            way_on = f"(local cluster in {show.path(folder)}: start it again with `orca up`)"
            return Target(list(cluster["api"]), token or own, way_on)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    way_on = "start a cluster here with `orca up`, or name one with ORCA_API"
    return Target([DEFAULT_API], token, way_on)


def addresses(api: str) -> list[str]:
    """`http://a:6880,http://b:6880` as a list. Raises click.UsageError."""
    found = [each.strip() for each in api.split(",") if each.strip()]
    for each in found:
        parts = urlsplit(each)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.UsageError(f"{each!r} is no address such as http://host:6880")
    if not found:
        raise click.UsageError("give at least one address such as http://host:6880")
    return found


def _token_in(file: str | None) -> str | None:
    if not file:
        return None
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise click.UsageError(f"the token file {file}: {error.strerror}") from error
