"""What the endpoints of services answer, in the words of API document 002 and more."""

import msgspec
from msgspec import UNSET, UnsetType


class TaskOut(msgspec.Struct, frozen=True):
    """One run of one replica.

    `replica`: its slot; `started_at`: Unix seconds; `address`: `host:port` of its node; `exit_code`:
    of one that has ended, and `signal` what that stands for; `container`: the engine's id; `reason`: why it
    does not run, in words; `attempt`: how often it has failed, `next_try_at` when it is tried next (Unix
    seconds); `image_digest`: of its image, `sha256:…`, if that came from a registry, and `image_id` on its
    node; `probes`: the last result of each, in words; `last_lines`: what it printed before it ended.
    """

    id: str
    replica: int
    revision: int
    state: str
    healthy: bool
    node: str | None
    reason: str | None
    exit_code: int | None
    signal: str | None
    oom_killed: bool
    attempt: int
    next_try_at: float | None
    probes: str | None
    last_lines: list[str]
    started_at: float | None
    address: str | None
    container: str | None
    image_digest: str | None
    image_id: str | None


class RolloutOut(msgspec.Struct, frozen=True):
    """How far the last change has come. `weight`: the new revision's share of requests while a canary
    stands beside the stable revision, in percent."""

    deployment: int
    kind: str
    strategy: str
    state: str
    revision: int
    stable_revision: int | None
    replicas: int
    ready: int
    weight: int | None
    reason: str | None


class ServiceOut(msgspec.Struct, frozen=True):
    """A service. `status`: one of running, updating, degraded, pending, failed, stopped.

    `replicas`: as deployed or scaled; `desired_replicas`: 0 while it is stopped; `running_replicas`:
    how many of these are ready, of whatever revision; `reason`: why it does not run in full, in words;
    `rollout`: the one that is under way; `depends_on`: the condition of each (`healthy`, `started`).
    """

    name: str
    project: str
    status: str
    replicas: int
    running_replicas: int
    image: str | None
    domain: str | None
    domains: list[str]
    desired_replicas: int
    runtime: str
    command: list[str] | None
    revision: int
    stable_revision: int | None
    reason: str | None
    rollout: RolloutOut | None
    depends_on: dict[str, str]
    tasks: list[TaskOut]


class StatusOut(msgspec.Struct, frozen=True):
    """In order of project and name."""

    services: list[ServiceOut]


class ReplicaOut(msgspec.Struct, frozen=True):
    """`reason`: why it has no node."""

    replica: int
    revision: int
    state: str
    node: str | None
    reason: str | None


class VerdictOut(msgspec.Struct, frozen=True):
    """What a node would be for one more replica. `reason`: why it cannot run there. `heard` false: it has
    not been heard of for a moment, and comes last.

    The lowest `spread` (replicas at the same value of the spread label) wins, then the lowest `cost` =
    `replicas` there + recent `failures` there - `affinity`, then the smallest `share` in use.
    """

    node: str
    fits: bool
    heard: bool
    reason: str | None
    cost: float
    replicas: int
    spread: int
    failures: int
    affinity: float
    share: float


class PlacementOut(msgspec.Struct, frozen=True):
    """`nodes`: the best first; `waits`: for what it depends on, a sentence each."""

    service: str
    project: str
    revision: int
    waits: list[str]
    replicas: list[ReplicaOut]
    nodes: list[VerdictOut]


class OutcomeOut(msgspec.Struct, frozen=True):
    """`state`: `running` (all replicas run the revision), `paused` (its rollout waits for somebody: a canary,
    say), `reverted` (it failed, and what ran before runs again), `failed`, `open` (the time was up before the
    outcome was known), `accepted` (nobody waited)."""

    service: str
    project: str
    revision: int
    deployment: int
    state: str
    reason: str | None


class PlannedOut(msgspec.Struct, frozen=True):
    """What a deploy would do. `action`: `nothing`, `in place` (no replica is replaced), `create`, `replace`;
    `fields`: what is different; `strategy`, `order`, `reason`: how it would be replaced, and why so;
    `blocked`: why not all new replicas would find a node beside what runs now; `waits`: what it would wait
    for before it starts, a sentence each."""

    service: str
    project: str
    action: str
    revision: int
    fields: list[str]
    replicas_before: int
    replicas: int
    strategy: str | None
    order: str | None
    reason: str | None
    blocked: str | None
    waits: list[str]


class DeployOut(msgspec.Struct, frozen=True):
    """`deployed`: names that run; `errors`: `name: reason`; `accepted`: with `wait=false`, and those whose
    rollout is paused; `plan`: with `plan=true`, and then nothing was done."""

    deployed: list[str]
    errors: list[str]
    accepted: list[str] | UnsetType = UNSET
    outcomes: list[OutcomeOut] = msgspec.field(default_factory=list)
    plan: list[PlannedOut] | UnsetType = UNSET


class ScaleOut(msgspec.Struct, frozen=True):
    service: str
    replicas: int


class StoppedOut(msgspec.Struct, frozen=True):
    """`stopped`: the services' names."""

    ok: str
    stopped: list[str]
