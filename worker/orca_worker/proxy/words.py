"""How Envoy's configuration is written."""

from typing import Any

API = "type.googleapis.com/envoy"


def typed(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    """The message with its type's name, as where any type may stand."""
    return {"@type": f"{API}.{kind}", **value}


def seconds(value: float) -> str:
    """A duration."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"


def hours(value: int) -> int:
    """In seconds."""
    return value * 3600


def resources(version: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A discovery response, as files hold them."""
    return {"version_info": version, "resources": found}
