"""What the endpoints of secrets answer. Nowhere a value."""

import msgspec


class SecretOut(msgspec.Struct, frozen=True):
    """`project` null: of all projects. `version`: the current one, made by `by` at `made_at` (Unix seconds);
    `versions`: that are kept; `size` in bytes; `text`: it fits into an environment variable."""

    key: str
    project: str | None
    version: int
    versions: list[int]
    size: int
    text: bool
    made_at: float
    by: str


class DataKeyOut(msgspec.Struct, frozen=True):
    """What seals values. `number` 0: nothing was sealed yet. `left`: how many values an older key has sealed
    still."""

    number: int
    made_at: float | None
    left: int


class SecretsOut(msgspec.Struct, frozen=True):
    """By project and key."""

    secrets: list[SecretOut]
    data_key: DataKeyOut


class UserOut(msgspec.Struct, frozen=True):
    """A service that uses the secret. `wanted`: the version of its revision; `running`: those that its
    replicas have."""

    service: str
    project: str
    wanted: int | None
    running: list[int]


class SecretSet(msgspec.Struct, frozen=True):
    """`changed` false: it had this value already. `rolling`: services that get it now; `outdated`: those that
    stay with an older one until they are deployed again."""

    key: str
    project: str | None
    version: int
    changed: bool
    rolling: list[str]
    outdated: list[str]


class SecretRemoved(msgspec.Struct, frozen=True):
    """`users`: services that used it, whose next replicas will fail."""

    ok: str
    users: list[str]


class UsageOut(msgspec.Struct, frozen=True):
    """A secret, or a name that nothing is known of, and who uses it."""

    key: str
    project: str | None
    version: int | None
    users: list[UserOut]


class UsagesOut(msgspec.Struct, frozen=True):
    """By project and key."""

    secrets: list[UsageOut]
