"""Accounts at registries: what the state holds of a password is ciphertext only."""

import msgspec

from orca_master.state.table import Table

CLUSTER_SCOPE = ""
"""Instead of a project: all projects."""


class Login(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who a project, or the cluster, is to a registry. `host`: with its port, `docker.io` for Docker Hub."""

    tenant: str
    project: str
    host: str
    username: str
    ciphertext: bytes
    made_at: float
    by: str


LOGINS = Table(
    "registry_logins",
    Login,
    key=lambda login: (login.tenant, login.project, login.host),
    indexes={"tenant": lambda login: login.tenant},
)
