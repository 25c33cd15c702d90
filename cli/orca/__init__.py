"""Orca for programs: `from orca import Client`. The command line is the client's first user."""

from orca.client import CannotReach, Client, NotAllowed, OrcaError, Refused

__all__ = ["CannotReach", "Client", "NotAllowed", "OrcaError", "Refused"]
