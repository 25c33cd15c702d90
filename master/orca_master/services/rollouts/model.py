"""What was ever accepted of a service, and how each change went: revisions and deployments."""

from enum import StrEnum

import msgspec

from orca_master.identity.secrets.model import SecretUse
from orca_master.services.model import ServiceSpec
from orca_master.services.strategy import Strategy
from orca_master.state.table import Table

MOST_SENTENCES = 100


class Revision(msgspec.Struct, frozen=True, omit_defaults=True):
    """An accepted change, never changed again but for what became of it.

    `stable_at`: when all replicas last ran it at the end of a rollout (Unix seconds); 0: never.
    `rejected`: it was left again by a rollback or a revert, which no rollback of its own leads back to.
    `secrets`: which version of each it was made with. `image_digest`: what its tag meant when its first
    replica ran (`sha256:…`), which is what all others run; empty: not known yet, or named by the spec itself.
    """

    tenant: str
    project: str
    service: str
    number: int
    spec: ServiceSpec
    made_at: float
    by: str = ""
    message: str = ""
    stable_at: float = 0.0
    rejected: bool = False
    secrets: tuple[SecretUse, ...] = ()
    image_digest: str = ""


class Kind(StrEnum):
    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    RESTART = "restart"


class DeploymentState(StrEnum):
    """
    running → succeeded
    running ⇄ paused
    running | paused → reverting → reverted
    running | paused | reverting → superseded | cancelled
    """

    RUNNING = "running"
    PAUSED = "paused"
    REVERTING = "reverting"
    SUCCEEDED = "succeeded"
    REVERTED = "reverted"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self not in _OPEN


_OPEN = (DeploymentState.RUNNING, DeploymentState.PAUSED, DeploymentState.REVERTING)


class PausedFor(StrEnum):
    """What a paused deployment waits for: somebody to end a canary's step, to say that it may go on, or to
    look at a failure."""

    STEP = "step"
    PERSON = "person"
    FAILURE = "failure"


class Sentence(msgspec.Struct, frozen=True):
    """A decision and why; `at` in Unix seconds."""

    at: float
    text: str


class Deployment(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way of a service from revision `base` (0: from nothing) to `revision`. One is open at a time.

    `strategy`, `stop_first`: what is really done. `holding`: a second set stands beside the first (a canary,
    or the green one), at step `stage` since `stage_at` (0: not ready yet). `moved`: slots 1 to this one are
    taken to the new revision; `settled`: how many have arrived. `progress_at`: when something last got on.
    `fetching`: nothing is touched yet, the image is brought to the nodes. `reason`: why it is paused or was
    reverted.
    """

    tenant: str
    project: str
    service: str
    number: int
    revision: int
    base: int
    started_at: float
    kind: Kind = Kind.DEPLOY
    strategy: Strategy = Strategy.ROLLING
    stop_first: bool = False
    fetching: bool = False
    state: DeploymentState = DeploymentState.RUNNING
    paused_for: PausedFor | None = None
    holding: bool = False
    stage: int = 0
    stage_at: float = 0.0
    moved: int = 0
    settled: int = 0
    progress_at: float = 0.0
    ended_at: float = 0.0
    reason: str = ""
    by: str = ""
    message: str = ""
    said: tuple[Sentence, ...] = ()

    @property
    def goal(self) -> int:
        """The revision that replicas are taken to."""
        return self.base if self.is_way_back else self.revision

    @property
    def origin(self) -> int:
        return self.revision if self.is_way_back else self.base

    @property
    def is_way_back(self) -> bool:
        return self.state in (DeploymentState.REVERTING, DeploymentState.REVERTED)


def number_key(number: int) -> str:
    """Sorts as the number does."""
    return f"{number:010}"


REVISIONS = Table(
    "revisions",
    Revision,
    key=lambda r: (r.tenant, r.project, r.service, number_key(r.number)),
    indexes={
        "service": lambda r: f"{r.tenant}/{r.project}/{r.service}",
        "secrets": lambda r: r.tenant if r.secrets else None,
    },
)
DEPLOYMENTS = Table(
    "deployments",
    Deployment,
    key=lambda d: (d.tenant, d.project, d.service, number_key(d.number)),
    indexes={"service": lambda d: f"{d.tenant}/{d.project}/{d.service}"},
)
