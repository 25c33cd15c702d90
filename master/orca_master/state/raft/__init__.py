"""The Raft log: several masters agree on one log, on PySyncObj with its unsafe parts replaced."""

from orca_master.state.raft.founding import found
from orca_master.state.raft.log import RaftLog
from orca_master.state.raft.members import Member, Removed

__all__ = ["Member", "RaftLog", "Removed", "found"]
