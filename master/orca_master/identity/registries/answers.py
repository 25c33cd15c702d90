"""What the endpoints of registries answer. Nowhere a password."""

import msgspec


class RegistryOut(msgspec.Struct, frozen=True):
    """Who a project is to a registry. `project` null: every project without one of its own."""

    host: str
    project: str | None
    username: str
    made_at: float
    by: str


class RegistriesOut(msgspec.Struct, frozen=True):
    """By project and host."""

    registries: list[RegistryOut]


class RegistrySet(msgspec.Struct, frozen=True):
    """`changed` false: it was so already. `checked`: the registry has let it in; else `reason` says why that
    is not known."""

    host: str
    project: str | None
    username: str
    changed: bool
    checked: bool
    reason: str | None


class RegistryRemoved(msgspec.Struct, frozen=True):
    ok: str
