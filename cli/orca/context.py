"""Which cluster the command line talks to: flags, then `ORCA_API`/`ORCA_TOKEN`, then the context that is
in use (or `ORCA_CONTEXT`), then a local cluster."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_API = "http://127.0.0.1:6880"


@dataclass(frozen=True, slots=True)
class Target:
    """`api`: every master's address. `origin` says in words where this came from."""

    api: list[str]
    token: str | None
    origin: str


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


def find_target(api: str | None, token: str | None) -> Target:
    api = api or os.environ.get("ORCA_API")
    token = token or os.environ.get("ORCA_TOKEN")
    if api:
        return Target([each.strip() for each in api.split(",")], token, "given")
    kept = read_contexts()
    chosen = kept["contexts"].get(os.environ.get("ORCA_CONTEXT") or kept["current"])
    if chosen is not None:
        return Target(list(chosen["api"]), token or _token_in(chosen["token_file"]), "context")
    for folder in local_folders():
        try:
            cluster = json.loads((folder / "cluster.json").read_text())
            own = Path(cluster["token_file"]).read_text().strip()
            return Target(list(cluster["api"]), token or own, f"local cluster in {folder}")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return Target([DEFAULT_API], token, "default")


def _token_in(file: str | None) -> str | None:
    try:
        return Path(file).read_text().strip() if file else None
    except OSError:
        return None
