"""What a service waits for before it starts, as people write it in the deploy payload."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from orca_master.http.names import Name
from orca_master.http.route import StrictModel
from orca_master.services.model import Condition, Dependency

MOST_DEPENDENCIES = 100

_CONDITIONS = ("healthy", "started", "service_healthy", "service_started")


class DependencyIn(StrictModel):
    """`service_…`: as compose files say it."""

    condition: Literal["healthy", "started", "service_healthy", "service_started"] = "healthy"


def _by_name(value: Any) -> Any:
    """A list of names is short for all of them healthy."""
    if not isinstance(value, list):
        return value
    if not all(isinstance(name, str) for name in value):
        raise ValueError(
            "must be a list of names of services, or an object with a condition for each"
        )
    twice = sorted({name for name in value if value.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)[:200]} is named twice")
    return {name: {} for name in value}


_NAME = {"type": "string", "minLength": 1, "maxLength": 63}
DependsOn = Annotated[
    dict[Name, DependencyIn],
    BeforeValidator(_by_name),
    Field(max_length=MOST_DEPENDENCIES),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "array",
                    "items": _NAME,
                    "uniqueItems": True,
                    "maxItems": MOST_DEPENDENCIES,
                },
                {
                    "type": "object",
                    "maxProperties": MOST_DEPENDENCIES,
                    "additionalProperties": {
                        "type": "object",
                        "properties": {"condition": {"enum": list(_CONDITIONS)}},
                        "additionalProperties": False,
                    },
                },
            ]
        }
    ),
]


def dependencies(depends_on: dict[str, DependencyIn]) -> tuple[Dependency, ...]:
    """In order of their names."""
    return tuple(
        Dependency(name, Condition(depends_on[name].condition.removeprefix("service_")))
        for name in sorted(depends_on)
    )
