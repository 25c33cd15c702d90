"""Orca's client for programs: `import orca`. What the command line uses, too."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orca.blocking import SyncClient
    from orca.client import Client
    from orca.errors import CannotReach, NotAllowed, OrcaError, Refused

__all__ = ["CannotReach", "Client", "NotAllowed", "OrcaError", "Refused", "SyncClient"]


def __getattr__(name: str) -> Any:
    """Loaded when it is asked for: `orca --help` needs no HTTP client."""
    if name in __all__:
        modules = {"SyncClient": "orca.blocking", "Client": "orca.client"}
        return getattr(import_module(modules.get(name, "orca.errors")), name)
    raise AttributeError(f"module 'orca' has no attribute {name!r}")
