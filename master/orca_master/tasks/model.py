"""Tasks: what runs on nodes, for whoever asked (a service's replica, later a workflow's step).

A task is one-shot: it runs once, on one node, and ends. What must go on running gets a new task.
`wanted` is written by masters only, `observed` only from the worker's reports, and its state only
grows:

    pending → assigned → preparing → starting → running → stopping → exited | failed → gone

    pending    no node yet; `pending_reason` says why
    assigned   a node was chosen; its worker has not reported yet
    preparing  the image is being made available
    starting   it runs, and has not been ready yet
    running    it runs; `healthy` says whether it is ready now
    exited     it ended by itself
    failed     it could not be started
    gone       nothing of it is left on the node; the row is deleted
"""

from enum import IntEnum, StrEnum

import msgspec

from orca_master.identity.secrets.model import SecretUse
from orca_master.state.table import Table
from orca_master.tasks.constraints import Constraints


class TaskState(IntEnum):
    """The numbers are those of the protocol, so that a report needs no translation."""

    PENDING = 1
    ASSIGNED = 2
    PREPARING = 3
    STARTING = 4
    RUNNING = 5
    STOPPING = 6
    EXITED = 7
    FAILED = 8
    GONE = 9

    @property
    def is_over(self) -> bool:
        return self >= TaskState.EXITED


class Wanted(StrEnum):
    RUN = "run"
    STOP = "stop"


class Probe(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a node asks whether a task is well: `command` inside it, a `tcp` connection, the standard `grpc`
    health service, else an HTTP GET of `path` (200 to 399). `port` 0: the task's own. Thresholds are
    answers in a row."""

    path: str = ""
    interval_seconds: float = 10.0
    timeout_seconds: float = 3.0
    failure_threshold: int = 3
    success_threshold: int = 1
    delay_seconds: float = 0.0
    port: int = 0
    tcp: bool = False
    grpc: bool = False
    service: str = ""
    command: tuple[str, ...] = ()
    headers: dict[str, str] = {}


class Device(msgspec.Struct, frozen=True, omit_defaults=True):
    """A device of the node; `permissions` of r, w, m."""

    path: str
    permissions: str = "rw"


class Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    """A folder or file of the node, if its worker allows it."""

    source: str
    target: str
    read_only: bool = False


class Volume(msgspec.Struct, frozen=True, omit_defaults=True):
    """Kept by the node for one slot of one service; it outlives the tasks."""

    name: str
    target: str
    read_only: bool = False


class Container(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only a container engine can do. Empty: the image's own, or the node's default."""

    entrypoint: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[Volume, ...] = ()
    aliases: tuple[str, ...] = ()
    security: str = "default"


class SecretFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file in memory, at `path` below the folder of secrets: the value of the secret `key`, or `content`
    with values in it."""

    path: str
    key: str = ""
    content: str = ""
    mode: int = 0o444


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to run. Zero limits are no limits. Values of secrets are in no row: `env` and `files` name them,
    and `secrets` says which version of each is meant. `image_only`: its image is made available, and nothing
    is run. `published`: other nodes reach its port, at its node's address."""

    runtime: str
    image: str = ""
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    memory_bytes: int = 0
    cpu_millis: int = 0
    port: int = 0
    host_port: int = 0
    readiness: Probe | None = msgspec.field(default=None, name="health")
    stop_grace_seconds: float = 10.0
    pull_policy: str = "auto"
    user: str = ""
    workdir: str = ""
    stop_signal: str = ""
    log_bytes: int = 0
    log_files: int = 0
    container: Container = Container()
    startup: Probe | None = None
    liveness: Probe | None = None
    files: tuple[SecretFile, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    image_only: bool = False
    stop_delay_seconds: float = 0.0
    published: bool = False


class StoredSpec(msgspec.Struct, frozen=True):
    """A spec under the hash of its bytes, shared by all tasks that run it."""

    hash: str
    spec: TaskSpec


class Observed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The worker's last word. Times are Unix seconds. `probes`: the last result of each, in words;
    `last_lines`: of what it printed, once it has ended; `image_digest`: what the registry calls its image
    (empty: it came from none), `image_id` what its node does."""

    state: TaskState = TaskState.PENDING
    healthy: bool = False
    reason: str = ""
    exit_code: int = 0
    oom_killed: bool = False
    started_at: float = 0.0
    ended_at: float = 0.0
    host_port: int = 0
    container: str = ""
    probes: str = ""
    last_lines: tuple[str, ...] = ()
    image_id: str = ""
    image_digest: str = ""


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """`owner` says for whom it runs (`service:<tenant>/<project>/<name>`) and is the first part of
    the key, so that a change of a task names its owner even when the task is gone.

    `generation` is higher than that of every other task of the slot when it was made. With a
    `fencing_token` it is fenced: it runs only while its node has the lease. Each start of a service's
    replicas has a higher one. `ready_at`: since when it is known to be ready, by the masters' clock (Unix
    seconds); 0: it is not."""

    id: str
    owner: str
    project: str
    name: str
    revision: int
    slot: int
    spec: str
    created_at: float
    constraints: Constraints = Constraints()
    wanted: Wanted = Wanted.RUN
    node: str = ""
    attempt: int = 0
    not_before: float = 0.0
    pending_reason: str = ""
    last_failure: str = ""
    observed: Observed = Observed()
    generation: int = 0
    fencing_token: int = 0
    ready_at: float = 0.0

    @property
    def tenant(self) -> str:
        return self.owner.partition(":")[2].partition("/")[0]

    @property
    def order(self) -> tuple[int, float, str]:
        """Of the tasks of one slot: the later was made after the earlier."""
        return self.generation, self.created_at, self.id

    @property
    def is_ready(self) -> bool:
        return self.observed.state is TaskState.RUNNING and self.observed.healthy


class Home(msgspec.Struct, frozen=True, omit_defaults=True):
    """The node that has the volumes of one slot: what comes after runs there too."""

    owner: str
    slot: int
    node: str


HOMES = Table(
    "homes",
    Home,
    key=lambda h: (h.owner, str(h.slot)),
    indexes={"node": lambda h: h.node, "owner": lambda h: h.owner},
)
TASKS = Table(
    "tasks",
    Task,
    key=lambda t: (t.owner, t.id),
    indexes={
        "id": lambda t: t.id,
        "owner": lambda t: t.owner,
        "node": lambda t: t.node or None,
        "spec": lambda t: t.spec,
        "unplaced": lambda t: "yes" if not t.node and t.wanted is Wanted.RUN else None,
    },
)
SPECS = Table("task_specs", StoredSpec, key=lambda s: (s.hash,))
