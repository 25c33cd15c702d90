"""How a change of a service is carried out: what people choose. Pure data."""

from enum import StrEnum

import msgspec

from orca_master.services.routing.model import Match

SETTLE_SECONDS = 0.5
"""How long a replica without a health check must run before it counts: one that fails at once is none."""


class Strategy(StrEnum):
    """`rolling`: some replicas at a time. `blue-green`: a whole second set beside the first, then all at
    once. `canary`: some of the new beside all of the old until it is promoted, then rolling. `recreate`:
    nothing of the old may run while anything of the new does."""

    ROLLING = "rolling"
    BLUE_GREEN = "blue-green"
    CANARY = "canary"
    RECREATE = "recreate"


class Order(StrEnum):
    """Whether a new replica comes up before the old one of its slot stops. `auto`: start-first wherever
    two can stand side by side."""

    AUTO = "auto"
    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"


class OnFailure(StrEnum):
    """What becomes of a rollout whose new replicas fail."""

    REVERT = "revert"
    PAUSE = "pause"
    CONTINUE = "continue"


class Share(msgspec.Struct, frozen=True, omit_defaults=True):
    """A number of replicas, or so many percent of them."""

    number: int = 0
    percent: int = 0

    def of(self, replicas: int) -> int:
        """Percentages are rounded up: more than none of something is at least one."""
        return self.number or -(-replicas * self.percent // 100)


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """A canary's share of requests, in percent, and how long it keeps it. `pause`: until someone resumes."""

    weight: int
    seconds: float = 0.0
    pause: bool = False


class Canary(msgspec.Struct, frozen=True, omit_defaults=True):
    """`share`: how many replicas of the new revision stand beside the old ones. Without steps there is one,
    with `weight`, that lasts until someone promotes. After the last step: all, if `auto_promote`.
    Requests that `match` go to it whatever its weight."""

    share: Share = Share(number=1)
    weight: int = 20
    steps: tuple[Step, ...] = ()
    auto_promote: bool = False
    match: Match | None = None

    @property
    def stages(self) -> tuple[Step, ...]:
        return self.steps or (Step(self.weight),)

    def replicas(self, of: int) -> int:
        return min(of, max(1, self.share.of(of)))


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True):
    """Times in seconds. `max_parallel`: how many replicas may be on their way at a time; `max_surge`: how
    many there may be above the wanted number; `max_unavailable`: how many may be missing where the old
    one stops first. None: as `max_parallel`. `min_healthy`: how long a new replica must be ready before the
    next step; None: 0.5 s without a health check, else 0. `healthy_deadline`: until when a placed replica
    must be ready; `progress_deadline`: the same for a rollout in which nothing happens. `keep_old`: how long
    old replicas stay warm after a success."""

    strategy: Strategy = Strategy.ROLLING
    order: Order = Order.AUTO
    max_parallel: Share = Share(percent=25)
    max_surge: Share | None = None
    max_unavailable: Share | None = None
    min_healthy: float | None = None
    healthy_deadline: float = 300.0
    progress_deadline: float = 600.0
    on_failure: OnFailure = OnFailure.REVERT
    keep_old: float = 0.0
    canary: Canary = Canary()

    def settle_seconds(self, *, has_check: bool) -> float:
        if self.min_healthy is not None:
            return self.min_healthy
        return 0.0 if has_check else SETTLE_SECONDS
