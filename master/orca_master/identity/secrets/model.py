"""Secrets: what the state holds of them is ciphertext only.

A value is sealed with a data key of its tenant, and that key is wrapped with the key-encryption key, which
is in no row. Versions of one secret are numbered from 1; a number is never given to another value while
anything refers to it.
"""

import msgspec

from orca_master.state.table import Table

CLUSTER_SCOPE = ""
"""Instead of a project: all projects."""


class DataKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What values are sealed with. The newest one (`number`) seals; the others open until none is left."""

    tenant: str
    number: int
    wrapped: bytes
    made_at: float
    by: str


class Secret(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key and which version is current. `current` 0: it was removed, and the row says only which numbers
    were given (`newest`). `bytes_kept`: of all versions. `rolling`: those who use an older version are to get
    this one; `by` wants it."""

    tenant: str
    project: str
    key: str
    current: int
    newest: int
    bytes_kept: int = 0
    rolling: bool = False
    by: str = ""


class SecretVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value, sealed with the data key `data_key`. `size` of the value in bytes; `is_text`: it fits into
    an environment variable."""

    tenant: str
    project: str
    key: str
    version: int
    ciphertext: bytes
    data_key: int
    size: int
    made_at: float
    by: str
    is_text: bool = True


class SecretUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which value stands for `${secrets.KEY}`: the key of its row. It holds for one revision for good."""

    tenant: str
    project: str
    key: str
    version: int

    @property
    def name(self) -> str:
        """For people: `KEY`, or `project/KEY`."""
        return shown(self.project, self.key)

    @property
    def row_key(self) -> tuple[str, str, str, str]:
        return self.tenant, self.project, self.key, version_key(self.version)


def shown(project: str, key: str) -> str:
    return f"{project}/{key}" if project else key


def version_key(version: int) -> str:
    """Sorts as the number does."""
    return f"{version:010}"


DATA_KEYS = Table(
    "secret_data_keys",
    DataKey,
    key=lambda k: (k.tenant, version_key(k.number)),
    indexes={"tenant": lambda k: k.tenant},
)
SECRETS = Table(
    "secrets",
    Secret,
    key=lambda s: (s.tenant, s.project, s.key),
    indexes={
        "tenant": lambda s: s.tenant,
        "rolling": lambda s: "yes" if s.rolling else None,
        "removed": lambda s: None if s.current else "yes",
    },
)
SECRET_VERSIONS = Table(
    "secret_versions",
    SecretVersion,
    key=lambda v: (v.tenant, v.project, v.key, version_key(v.version)),
    indexes={
        "secret": lambda v: f"{v.tenant}/{v.project}/{v.key}",
        "data_key": lambda v: f"{v.tenant}/{v.data_key}",
    },
)
