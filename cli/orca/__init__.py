"""Orca's client for programs: `import orca`. What the command line uses, too."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orca.blocking import SyncClient
    from orca.client import CannotReach, Client, NotAllowed, OrcaError, Refused

__all__ = ["CannotReach", "Client", "NotAllowed", "OrcaError", "Refused", "SyncClient"]


def __getattr__(name: str) -> Any:
    """Loaded when it is asked for: `orca --help` needs no HTTP client."""
    if name == "SyncClient":
        from orca import blocking

        return blocking.SyncClient
    if name in __all__:
        from orca import client

        return getattr(client, name)
    raise AttributeError(f"module 'orca' has no attribute {name!r}")
