"""The Raft log: several masters agree on one log, on PySyncObj with its unsafe parts replaced."""

from orca_master.state.raft.log import RaftLog

__all__ = ["RaftLog"]
