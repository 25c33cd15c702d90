"""The cluster itself and its nodes."""

from enum import StrEnum

import msgspec

from orca_master.state.table import Table


class Cluster(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row. `epoch` is raised when the state is restored from a backup; `schema` is the lowest
    schema version of all masters, and never falls."""

    id: str
    name: str
    epoch: int
    created_at: float
    schema: int = 1


class Authority(msgspec.Struct, frozen=True, omit_defaults=True):
    """The cluster's certificate authority: the one that signs. The key is wrapped with the
    key-encryption key.

    `previous`: the certificate (PEM) of the one that it has replaced, which is trusted no more;
    `left_behind`: names of masters and nodes that had no certificate of this one by then.
    """

    certificate: bytes
    wrapped_key: bytes
    since: float = 0.0
    previous: bytes = b""
    left_behind: tuple[str, ...] = ()


class Master(msgspec.Struct, frozen=True, omit_defaults=True):
    """A master that is wanted as a member; each tells by itself where it is reached.

    `peers`, `workers`: `host:port` of the port between masters and of the workers' port; `api` is a
    URL; `schema` is the version of the state's schema that it knows; `enrolled` is SHA-256, in hex,
    of the public key with which it asked to join.
    """

    id: str
    name: str
    joined_at: float
    peers: str = ""
    api: str = ""
    workers: str = ""
    version: str = ""
    schema: int = 1
    enrolled: str = ""


class JoinGrant(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the master keeps of a join token: its public key, for whom, how long and how often it works,
    and the labels that it gives to a node."""

    public_key: str
    expires_at: float
    uses_left: int
    created_at: float
    role: str = "worker"
    labels: dict[str, str] = {}


class NodeState(StrEnum):
    """`joined`: has a certificate, has never connected."""

    JOINED = "joined"
    READY = "ready"
    DOWN = "down"


class NodeFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Observed: what the worker says of itself when it connects. Memory in bytes, processors in
    thousandths. `devices` are those that containers may be given, and folders of them; None: not known."""

    version: str = ""
    address: str = ""
    os: str = ""
    architecture: str = ""
    runtimes: tuple[str, ...] = ()
    memory_bytes: int = 0
    cpu_millis: int = 0
    labels: dict[str, str] = {}
    devices: tuple[str, ...] | None = None


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker's machine. `schedulable` is wanted by people; `state` is judged by the master;
    `enrolled` is SHA-256, in hex, of the public key with which it asked to join, `token` the public key
    of the token that let it in, last, and which it may show again until `token_expires_at`; `labels`
    are set by people, over those of its worker's settings. From `drain_deadline` on (0: never) what
    still runs on a node that is drained is stopped. `disk_full`: observed; it gets nothing new.
    """

    id: str
    name: str
    joined_at: float
    state: NodeState = NodeState.JOINED
    state_since: float = 0.0
    state_reason: str = ""
    schedulable: bool = True
    facts: NodeFacts = NodeFacts()
    enrolled: str = ""
    labels: dict[str, str] = {}
    drained_at: float = 0.0
    drain_deadline: float = 0.0
    token: str = ""
    token_expires_at: float = 0.0
    disk_full: bool = False

    @property
    def all_labels(self) -> dict[str, str]:
        """What its worker says of it, what people say of it over that, and its own facts."""
        return (
            self.facts.labels
            | self.labels
            | {
                "node.id": self.id,
                "node.name": self.name,
                "node.os": self.facts.os,
                "node.architecture": self.facts.architecture,
            }
        )


class RemovedNode(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node whose certificate is worth nothing any more, kept for as long as that may be shown."""

    id: str
    name: str
    removed_at: float


CLUSTER = Table("cluster", Cluster, key=lambda _: ("cluster",))
AUTHORITY = Table("authority", Authority, key=lambda _: ("ca",))
MASTERS = Table("masters", Master, key=lambda m: (m.id,), indexes={"name": lambda m: m.name})
JOIN_GRANTS = Table("join_grants", JoinGrant, key=lambda g: (g.public_key,))
NODES = Table("nodes", Node, key=lambda n: (n.id,), indexes={"name": lambda n: n.name})
REMOVED_NODES = Table("removed_nodes", RemovedNode, key=lambda n: (n.id,))
