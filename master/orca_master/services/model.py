"""Services: what people deploy."""

from enum import StrEnum

import msgspec

from orca_master.identity.secrets import templates
from orca_master.services.routing.model import Routing
from orca_master.services.strategy import Rollout
from orca_master.state.table import Table
from orca_master.tasks.constraints import Constraints
from orca_master.tasks.model import Container, Probe, SecretFile

OWNER_PREFIX = "service:"


class Reconnect(StrEnum):
    """Which of two goes on when a node returns whose replica was replaced, see `replacing`."""

    KEEP_ORIGINAL = "keep_original"
    KEEP_REPLACEMENT = "keep_replacement"
    BEST = "best"


class ServiceSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one replica runs. Two equal specs are the same revision. Zero limits are no limits. `health`: a
    path that stands for readiness and liveness, where these are not given; `published`: other nodes reach
    its port, at its node's address."""

    image: str = ""
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    port: int = 0
    host_port: int = 0
    health: str = ""
    memory_bytes: int = 0
    cpu_millis: int = 0
    internal: bool = False
    constraints: Constraints = Constraints()
    pull_policy: str = "auto"
    stop_grace_seconds: float = 10.0
    user: str = ""
    workdir: str = ""
    stop_signal: str = ""
    log_bytes: int = 0
    log_files: int = 0
    container: Container = Container()
    fence: bool = False
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    files: tuple[SecretFile, ...] = ()
    stop_delay_seconds: float = 0.0
    published: bool = False

    @property
    def runtime(self) -> str:
        return "docker" if self.image else "process"

    @property
    def has_check(self) -> bool:
        """Whether something says when a replica is ready, besides that it runs."""
        return bool(self.health) or self.readiness is not None or self.startup is not None

    @property
    def secret_keys(self) -> set[str]:
        """Every KEY of a `${secrets.KEY}` that a replica needs the value of."""
        texts = [*self.env.values(), *(file.content for file in self.files)]
        return templates.keys(texts) | {file.key for file in self.files if file.key}

    @property
    def secret_keys_of_env(self) -> set[str]:
        return templates.keys(self.env.values())


class Condition(StrEnum):
    """What a dependency must be before those that need it start: one replica runs, or all are ready."""

    STARTED = "started"
    HEALTHY = "healthy"


class Dependency(msgspec.Struct, frozen=True, omit_defaults=True):
    """A service of the same project, by its name."""

    name: str
    condition: Condition = Condition.HEALTHY


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How replicas are treated; a change of it restarts none. `drain_max_parallel`: how many may leave
    drained nodes at a time; `reconnect`: which goes on when a node returns; `rollout`: how a change of the
    service is carried out; `depends_on`: what must be there before it starts, in order of their names;
    `routing`: how requests from outside reach it."""

    drain_max_parallel: int = 1
    reconnect: Reconnect = Reconnect.BEST
    rollout: Rollout = Rollout()
    depends_on: tuple[Dependency, ...] = ()
    routing: Routing = Routing()


class Service(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything here is wanted; what is true of it is read off its tasks.

    `stopped` keeps the row and runs nothing. `purge` forgets the row once nothing of it runs. `spec` is that
    of `revision`, the one that replicas are taken to; `newest`: the highest that was ever given;
    `stable`: the last one that all replicas ran at the end of a rollout (0: none yet); `deployment`: the
    number of the last one. `waits`: nothing new of it starts before what it depends on is there.
    """

    tenant: str
    project: str
    name: str
    spec: ServiceSpec
    replicas: int
    revision: int
    created_at: float
    updated_at: float
    stopped: bool = False
    purge: bool = False
    policy: Policy = Policy()
    newest: int = 0
    stable: int = 0
    deployment: int = 0
    waits: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        return self.tenant, self.project, self.name

    @property
    def owner(self) -> str:
        """The owner of this service's tasks."""
        return owner_of(self.tenant, self.project, self.name)

    @property
    def wanted_replicas(self) -> int:
        return 0 if self.stopped else self.replicas


class FencingTokens(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last fencing token of a service; it outlives the service, so that none is ever given again."""

    owner: str
    last: int


def owner_of(tenant: str, project: str, name: str) -> str:
    return f"{OWNER_PREFIX}{tenant}/{project}/{name}"


def key_of_owner(owner: str) -> tuple[str, str, str]:
    """(tenant, project, name); the inverse of `owner_of`."""
    tenant, project, name = owner.removeprefix(OWNER_PREFIX).split("/")
    return tenant, project, name


SERVICES = Table(
    "services",
    Service,
    key=lambda s: (s.tenant, s.project, s.name),
    indexes={
        "name": lambda s: f"{s.tenant}/{s.name}",
        "project": lambda s: f"{s.tenant}/{s.project}",
        "tenant": lambda s: s.tenant,
        "routed": lambda s: "yes" if s.policy.routing.domains else None,
        "waits": lambda s: f"{s.tenant}/{s.project}" if s.waits else None,
    },
)
FENCING_TOKENS = Table("fencing_tokens", FencingTokens, key=lambda f: (f.owner,))
