"""Masters of different versions in one cluster: what may be written while the oldest is older.

Each master has a schema version; the lowest of all is the cluster's, and it is a fact in the state
(`Schema.cluster_version` reads it). Tables and fields say since which version they exist. Only a
transaction looks at that, and it runs once, on the leader, so masters cannot judge differently.
The cluster's version never falls: an older master may not join, nor start again.
"""

from orca_master.state.rows import State


class OlderThanCluster(Exception):
    """This master's version is older than what the cluster writes. The text says what to do."""


def check_not_older(state: State) -> None:
    """Raises OlderThanCluster. To be called after the start, and whenever the fact has changed:
    a replicated log may bring it later."""
    mine, cluster = state.schema.version, state.cluster_version
    if mine < cluster:
        raise OlderThanCluster(
            f"this master is of schema version {mine}, but all masters of its cluster had version"
            f" {cluster} already, and it would not understand what they write: install the version"
            " that the other masters run, then start it again; its data is left as it is"
        )
