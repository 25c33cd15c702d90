"""What happens in a cluster, as it is told to those who watch. Nothing of it is kept in the state."""

import msgspec

from orca_master.identity.model import Permission

NOUNS = {
    "deployment": Permission.SERVICES_READ,
    "replica": Permission.SERVICES_READ,
    "service": Permission.SERVICES_READ,
    "delivery": Permission.SERVICES_READ,
    "secret": Permission.SECRETS_READ,
    "node": Permission.CLUSTER_READ,
}
"""The first part of an event's kind, and what its reader must be permitted."""
GAP = "gap"
LAST_IN_VERSION = 1 << 62

Position = tuple[int, int]
"""(version of the state, n-th event of it): the same on every master."""
Detail = str | int | bool


class Happening(msgspec.Struct, frozen=True):
    """`kind` is `noun.verb`; `at` Unix seconds, by the masters' clocks. Empty: it has none of that.

    `tenant` empty: all of them. `node` is a name, `node_id` its id.
    """

    version: int
    n: int
    at: float
    kind: str
    text: str
    tenant: str = ""
    project: str = ""
    service: str = ""
    replica: int = 0
    node: str = ""
    node_id: str = ""
    actor: str = ""
    details: dict[str, Detail] = {}

    @property
    def position(self) -> Position:
        return self.version, self.n

    @property
    def noun(self) -> str:
        return self.kind.partition(".")[0]
