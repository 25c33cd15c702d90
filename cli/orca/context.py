"""Which cluster the command line talks to: flags, then `ORCA_API`/`ORCA_TOKEN`, then a local cluster."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

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


def find_target(api: str | None, token: str | None) -> Target:
    api = api or os.environ.get("ORCA_API")
    token = token or os.environ.get("ORCA_TOKEN")
    if api:
        return Target([each.strip() for each in api.split(",")], token, "given")
    for folder in local_folders():
        try:
            cluster = json.loads((folder / "cluster.json").read_text())
            kept = Path(cluster["token_file"]).read_text().strip()
            return Target(list(cluster["api"]), token or kept, f"local cluster in {folder}")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return Target([DEFAULT_API], token, "default")
