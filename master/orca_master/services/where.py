"""Where replicas run and what they take, as people write it in the deploy payload."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from orca_master.http.route import StrictModel
from orca_master.tasks.constraints import LABEL_KEY, Affinity, Constraints, parse_rule

MIN_MEMORY_BYTES = 6 << 20
"""Container engines refuse less."""

_MEMORY = re.compile(r"([0-9]{1,15})(|Ki|Mi|Gi|Ti)", re.ASCII)
_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def size_bytes(value: str) -> int:
    """Raises ValueError. `512Mi` → 536870912."""
    match = _MEMORY.fullmatch(value)
    if match is None:
        raise ValueError("must be bytes, or a number with Ki, Mi, Gi or Ti, such as 512Mi")
    return int(match[1]) * _UNITS[match[2]]


def memory_bytes(value: str) -> int:
    """As `size_bytes`, no less than a container may have. Raises ValueError."""
    size = size_bytes(value)
    if not MIN_MEMORY_BYTES <= size < 1 << 62:
        raise ValueError("must be at least 6Mi")
    return size


def _check_memory(value: str) -> str:
    memory_bytes(value)
    return value


def check_rule(value: str) -> str:
    parse_rule(value)
    return value


Rule = Annotated[
    str,
    Field(max_length=500),
    AfterValidator(check_rule),
    WithJsonSchema({"type": "string", "maxLength": 500, "examples": ["disk = ssd"]}),
]
Memory = Annotated[
    str,
    AfterValidator(_check_memory),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,15}(|Ki|Mi|Gi|Ti)$"}),
]


class ReserveIn(StrictModel):
    """What is set aside on the node for each replica."""

    memory: Annotated[
        Memory | None, Field(description="Such as 256Mi; without it, the limit is set aside.")
    ] = None
    cpu: Annotated[float | None, Field(ge=0.001, le=1024, description="Processors.")] = None


class ResourcesIn(StrictModel):
    """Limits, and what is set aside."""

    memory: Annotated[Memory | None, Field(description="Such as 512Mi; at least 6Mi.")] = None
    cpu: Annotated[float | None, Field(ge=0.001, le=1024, description="Processors.")] = None
    reserve: ReserveIn = ReserveIn()

    @model_validator(mode="after")
    def _check_reserve(self) -> "ResourcesIn":
        memory, reserved = self.memory, self.reserve.memory
        if memory and reserved and memory_bytes(reserved) > memory_bytes(memory):
            raise ValueError("reserve.memory is more than the limit, memory")
        if self.cpu and self.reserve.cpu and self.reserve.cpu > self.cpu:
            raise ValueError("reserve.cpu is more than the limit, cpu")
        return self


class LeavingIn(StrictModel):
    """How replicas leave a node that is drained."""

    max_parallel: Annotated[
        int, Field(ge=1, le=10_000, description="So many of the service at a time.")
    ] = 1


class AffinityIn(StrictModel):
    rule: Rule
    weight: Annotated[
        int,
        Field(
            ge=-10_000,
            le=10_000,
            description="100 outweighs one replica that is there already; negative keeps away.",
        ),
    ] = 100


class PlacementIn(StrictModel):
    node: Annotated[
        str | None, Field(min_length=1, max_length=63, description="Its exact name or id.")
    ] = None
    labels: dict[str, str] = Field(default_factory=dict, description="A node's must be equal.")
    rules: Annotated[
        list[Rule],
        Field(
            max_length=32,
            description="All must hold: `disk = ssd`, `disk != hdd`, `zone in (a, b)`,"
            " `zone not in (a, b)`, `gpu exists`, `gpu not exists`, `cores > 4`, `cores < 8`.",
        ),
    ] = Field(default_factory=list)
    affinity: Annotated[
        list[AffinityIn], Field(max_length=32, description="Where it would rather run.")
    ] = Field(default_factory=list)
    spread: Annotated[
        str,
        Field(
            max_length=100,
            pattern=f"^({LABEL_KEY.pattern})?$",
            description="A label over whose values replicas are spread, such as `zone`.",
        ),
    ] = ""
    distinct_hosts: Annotated[
        bool, Field(description="Never two replicas of one revision on a node.")
    ] = False
    strategy: Annotated[
        Literal["spread", "binpack"],
        Field(description="`spread` over the nodes, or `binpack`: the fullest node that fits."),
    ] = "spread"

    def constraints(self, reserve: ReserveIn) -> Constraints:
        return Constraints(
            node=self.node or "",
            labels=dict(self.labels),
            rules=tuple(parse_rule(rule) for rule in self.rules),
            affinities=tuple(Affinity(parse_rule(a.rule), a.weight) for a in self.affinity),
            distinct_hosts=self.distinct_hosts,
            spread=self.spread,
            pack=self.strategy == "binpack",
            memory_bytes=memory_bytes(reserve.memory) if reserve.memory else None,
            cpu_millis=round((reserve.cpu or 0) * 1000),
        )
