"""What the endpoints of the cluster answer."""

from typing import Literal

import msgspec

from orca_master.cluster.masters.answers import MasterOut


class AmountsOut(msgspec.Struct, frozen=True):
    """`cpu`: processors."""

    memory_bytes: int
    cpu: float


class LeftOut(msgspec.Struct, frozen=True):
    """A replica that has not ended there; `reason`: why it cannot go elsewhere yet."""

    project: str
    service: str
    replica: int
    reason: str | None


class DrainingOut(msgspec.Struct, frozen=True):
    """`since`, `deadline`: Unix seconds; at the deadline what is left is stopped. `left`: at most 50."""

    state: Literal["draining", "drained"]
    since: float
    deadline: float | None
    left: list[LeftOut]


class NodeOut(msgspec.Struct, frozen=True):
    """A machine with a worker. `state_since`: Unix seconds; `reason`: of its state, in words.

    `state`: joined, ready, suspect (half the time that it may be silent is over), disconnected, down.
    `schedulable` false: it is being drained, see `drain`. `tasks`: how many have not ended there.
    """

    id: str
    name: str
    state: str
    state_since: float
    reason: str | None
    connected: bool
    schedulable: bool
    drain: DrainingOut | None
    tasks: int
    labels: dict[str, str]
    address: str
    runtimes: list[str]
    capacity: AmountsOut
    used: AmountsOut
    version: str
    os: str
    architecture: str


class LeaderOut(msgspec.Struct, frozen=True):
    """`api`: the address of its HTTP API."""

    name: str
    api: str


class ClusterOut(msgspec.Struct, frozen=True):
    """`version`: of the master that answers; `leader` null while nobody leads."""

    cluster_name: str
    cluster_id: str
    version: str
    leader: LeaderOut | None
    masters: list[MasterOut]
    nodes: list[NodeOut]
    node_count: int


class DrainOut(msgspec.Struct, frozen=True):
    """`status`: `drained` says that it is wanted so; `node` tells how far that is."""

    status: Literal["drained", "undrained"]
    node: NodeOut


class EvictedOut(msgspec.Struct, frozen=True):
    """Names of the nodes that were given up."""

    evicted: list[str]


class GrantOut(msgspec.Struct, frozen=True):
    """`token`: for `orca-worker join` or `orca-master join`; `expires_at`: Unix seconds."""

    token: str
    expires_at: float


class TrustedOut(msgspec.Struct, frozen=True):
    """`certificate`: X.509 in PEM; `voucher`: with what the other one signed it, base64."""

    certificate: str
    voucher: str


class CaOut(msgspec.Struct, frozen=True):
    """`certificate`: of the authority that signs, X.509 in PEM; `authorities`: both of them while one
    replaces the other, else none."""

    certificate: str
    authorities: list[TrustedOut]


class EnrolledOut(msgspec.Struct, frozen=True):
    """`certificate`: the worker's, X.509 in PEM; `masters`: `host:port` of their ports for workers."""

    node_id: str
    cluster_id: str
    certificate: str
    masters: list[str]
