"""Who may ask: tokens, the roles they carry, and what a role permits."""

from enum import StrEnum

import msgspec

from orca_master.state.table import Table

DEFAULT_TENANT = "default"


class Permission(StrEnum):
    """`noun:verb`. Every route names one; a route without one keeps the server from starting."""

    SERVICES_DEPLOY = "services:deploy"
    SERVICES_SCALE = "services:scale"
    SERVICES_STOP = "services:stop"
    SERVICES_READ = "services:read"
    LOGS_READ = "logs:read"
    CLUSTER_READ = "cluster:read"
    NODES_WRITE = "nodes:write"
    MASTERS_WRITE = "masters:write"
    AUDIT_READ = "audit:read"
    TOKENS_WRITE = "tokens:write"
    SECRETS_READ = "secrets:read"
    SECRETS_WRITE = "secrets:write"


class Role(StrEnum):
    ADMIN = "admin"
    DEPLOYER = "deployer"
    VIEWER = "viewer"


_VIEWER = frozenset({Permission.SERVICES_READ, Permission.LOGS_READ, Permission.CLUSTER_READ})
_DEPLOYER = _VIEWER | {
    Permission.SERVICES_DEPLOY,
    Permission.SERVICES_SCALE,
    Permission.SERVICES_STOP,
    Permission.SECRETS_READ,
}

PROJECT_PERMISSIONS = frozenset(
    {
        Permission.SERVICES_READ,
        Permission.LOGS_READ,
        Permission.SERVICES_DEPLOY,
        Permission.SERVICES_SCALE,
        Permission.SERVICES_STOP,
        Permission.SECRETS_READ,
        Permission.SECRETS_WRITE,
    }
)
"""What a token of one project may have at most."""

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.DEPLOYER: _DEPLOYER,
    Role.VIEWER: _VIEWER,
}


class Token(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bearer token. Only its SHA-256 (hex) is kept; the token itself is shown once.

    `project` empty: all of them; `expires_at` 0: never.
    """

    id: str
    name: str
    role: Role
    sha256: str
    created_at: float
    project: str = ""
    expires_at: float = 0.0


TOKENS = Table("tokens", Token, key=lambda t: (t.id,), indexes={"sha256": lambda t: t.sha256})


class Principal(msgspec.Struct, frozen=True):
    """Whom a request speaks for, once its token has been checked. `project` empty: all of them."""

    name: str
    tenant: str
    permissions: frozenset[Permission]
    project: str = ""

    def may(self, permission: StrEnum) -> bool:
        return permission in self.permissions
