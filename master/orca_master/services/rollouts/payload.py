"""How a change is carried out, as people write it: `deploy` in the payload of a service."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from orca_master.http.route import QueryModel, StrictModel
from orca_master.services.routing.matching import MatchIn
from orca_master.services.strategy import (
    Canary,
    OnFailure,
    Order,
    Rollout,
    Share,
    Step,
    Strategy,
)

MOST_STEPS = 20
MOST_SECONDS = 7 * 86400.0

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT = re.compile(r"([0-9]{1,3})%", re.ASCII)
_SHARE_PATTERN = r"^(100|[1-9]?[0-9])%$"


def seconds(value: float | str) -> float:
    """Raises ValueError. A number is in seconds; or `500ms`, `30s`, `5m`, `1h`, `7d`."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError("must be seconds, or a duration such as 30s, 5m or 1h")
        value = float(match[1]) * _UNITS[match[2]]
    if not 0 <= value <= MOST_SECONDS:
        raise ValueError("must be 0 to 7 days")
    return float(value)


def share(value: int | str) -> Share:
    """Raises ValueError. A number of replicas, or `25%` of them."""
    if isinstance(value, int):
        if not 0 <= value <= 10_000:
            raise ValueError("must be 0 to 10000 replicas, or a percentage such as 25%")
        return Share(number=value)
    match = _PERCENT.fullmatch(value)
    if match is None or int(match[1]) > 100:
        raise ValueError("must be a number of replicas, or a percentage such as 25%")
    return Share(percent=int(match[1]))


def _check_seconds(value: float | str) -> float | str:
    seconds(value)
    return value


def _check_share(value: int | str) -> int | str:
    share(value)
    return value


Duration = Annotated[
    float | str,
    AfterValidator(_check_seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": MOST_SECONDS},
                {"type": "string", "pattern": r"^[0-9]{1,4}(ms|s|m)$"},
            ],
            "examples": ["30s"],
        }
    ),
]
Part = Annotated[
    int | str,
    AfterValidator(_check_share),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 10_000},
                {"type": "string", "pattern": _SHARE_PATTERN},
            ],
            "examples": ["25%"],
        }
    ),
]
Weight = Annotated[int, Field(ge=0, le=100)]


class StepIn(StrictModel):
    """A step of a canary. Without `duration` and `pause` it lasts no longer than it takes."""

    weight: Annotated[Weight, Field(description="Its share of requests, in percent.")]
    duration: Duration = 0.0
    pause: Annotated[bool, Field(description="Until somebody resumes it.")] = False


class CanaryIn(StrictModel):
    count: Annotated[
        int | None, Field(ge=1, le=10_000, description="So many replicas of it; 1 unless said.")
    ] = None
    percent: Annotated[
        int | None, Field(ge=1, le=100, description="Or so many percent of the replicas.")
    ] = None
    weight: Annotated[
        Weight | None,
        Field(description="Its share of requests, in percent, where no steps say so."),
    ] = None
    steps: Annotated[list[StepIn], Field(max_length=MOST_STEPS)] = Field(default_factory=list)
    auto_promote: Annotated[bool, Field(description="All replicas after the last step.")] = False
    match: Annotated[
        MatchIn | None, Field(description="Such requests go to it, whatever its weight.")
    ] = None

    @model_validator(mode="after")
    def _check(self) -> "CanaryIn":
        if self.count is not None and self.percent is not None:
            raise ValueError("give count or percent, not both")
        if self.steps and self.weight is not None:
            raise ValueError("give weight or steps, not both: each step has its weight")
        return self


class RolloutIn(StrictModel):
    """How a change of the service is carried out."""

    strategy: Annotated[
        str,
        Field(
            pattern="^(rolling|blue-green|canary|recreate)$",
            description="`rolling`: some at a time; `blue-green`: a whole second set, then all at once;"
            " `canary`: some of the new beside the old until it is promoted; `recreate`: all of the old stop"
            " first.",
        ),
    ] = "rolling"
    max_parallel: Annotated[Part, Field(description="So many are on their way at a time.")] = "25%"
    max_surge: Annotated[
        Part | None,
        Field(description="So many above the wanted number at a time; else as `max_parallel`."),
    ] = None
    max_unavailable: Annotated[
        Part | None,
        Field(description="So many may be missing where the old stop first; else `max_parallel`."),
    ] = None
    order: Annotated[
        str,
        Field(
            pattern="^(auto|start-first|stop-first)$",
            description="`auto` is start-first. Stop-first, whatever is said, with a fixed `host_port` and"
            " for fenced replicas.",
        ),
    ] = "auto"
    min_healthy_time: Annotated[
        Duration | None,
        Field(description="So long a new replica must be ready; 0.5 s without `health`, else 0."),
    ] = None
    healthy_deadline: Annotated[
        Duration, Field(description="Until then a new replica that has a node must be ready.")
    ] = 300.0
    progress_deadline: Annotated[
        Duration, Field(description="The same for a rollout in which nothing gets on.")
    ] = 600.0
    auto_revert: Annotated[bool, Field(description="Go back when new replicas fail.")] = True
    on_failure: Annotated[
        str | None,
        Field(
            pattern="^(revert|pause|continue)$",
            description="Unless said `revert`, or without `auto_revert` `pause`.",
        ),
    ] = None
    keep_old: Annotated[
        Duration, Field(description="So long old replicas stay warm after a success.")
    ] = 0.0
    canary: CanaryIn = CanaryIn()
    canary_weight: Annotated[
        Weight | None, Field(description="The same as `canary.weight`; 20 unless said.")
    ] = None

    @model_validator(mode="after")
    def _check(self) -> "RolloutIn":
        mistakes = []
        if self.canary_weight is not None and (self.canary.weight is not None or self.canary.steps):
            mistakes.append("canary_weight and canary.weight or steps say the same: give one")
        if self.canary != CanaryIn() and self.strategy != "canary":
            mistakes.append("canary needs strategy canary")
        if not self.auto_revert and self.on_failure == "revert":
            mistakes.append("auto_revert false and on_failure revert exclude each other")
        if _is_none(self.max_parallel):
            mistakes.append("max_parallel must be at least 1")
        if self.strategy == "blue-green" and self.order == "stop-first":
            mistakes.append("blue-green is two sets side by side: it cannot be stop-first")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def rollout(self) -> Rollout:
        on_failure = self.on_failure or ("revert" if self.auto_revert else "pause")
        healthy = self.min_healthy_time
        return Rollout(
            strategy=Strategy(self.strategy),
            order=Order(self.order),
            max_parallel=share(self.max_parallel),
            max_surge=None if self.max_surge is None else share(self.max_surge),
            max_unavailable=None if self.max_unavailable is None else share(self.max_unavailable),
            min_healthy=None if healthy is None else seconds(healthy),
            healthy_deadline=seconds(self.healthy_deadline),
            progress_deadline=seconds(self.progress_deadline),
            on_failure=OnFailure(on_failure),
            keep_old=seconds(self.keep_old),
            canary=self._canary(),
        )

    def _canary(self) -> Canary:
        given, weight = self.canary, self.canary_weight
        percent = Share(percent=given.percent or 0)
        return Canary(
            share=percent if given.percent else Share(number=given.count or 1),
            weight=next((w for w in (given.weight, weight) if w is not None), 20),
            steps=tuple(Step(s.weight, seconds(s.duration), s.pause) for s in given.steps),
            auto_promote=given.auto_promote,
            match=given.match.row() if given.match else None,
        )


def _is_none(value: int | str) -> bool:
    return share(value) == Share()


class PromoteQuery(QueryModel):
    project: Annotated[
        str | None, Field(description="Needed where several projects have the name.")
    ] = None
    step: Annotated[bool, Field(description="Only to the canary's next step.")] = False


class RollbackQuery(QueryModel):
    project: Annotated[
        str | None, Field(description="Needed where several projects have the name.")
    ] = None
    revision: Annotated[
        int | None, Field(ge=1, le=1 << 31, description="Else the last stable one before.")
    ] = None
