"""Every table of the state, in one place: a new slice adds its tables here."""

from orca_master.cluster.authority.model import HOLDINGS, ROTATIONS
from orca_master.cluster.model import (
    AUTHORITY,
    CLUSTER,
    JOIN_GRANTS,
    MASTERS,
    NODES,
    REMOVED_NODES,
)
from orca_master.http.once import DONE
from orca_master.identity.model import TOKENS
from orca_master.identity.registries.model import LOGINS
from orca_master.identity.secrets.model import DATA_KEYS, SECRET_VERSIONS, SECRETS
from orca_master.identity.wrapping.model import KEY_HOLDINGS, WRAPPING
from orca_master.ingress.certificates.model import ACME, CERTIFICATES, ORDERS
from orca_master.ingress.model import SERVINGS
from orca_master.services.model import FENCING_TOKENS, SERVICES
from orca_master.services.rollouts.model import DEPLOYMENTS, REVISIONS
from orca_master.sources.webhooks.model import DELIVERIES, DELIVERY_COUNTER, HOOKS, SEEN
from orca_master.state.table import Schema, View
from orca_master.tasks.gone import GONE_TASKS
from orca_master.tasks.model import HOMES, SPECS, TASKS

VERSION = 1
"""Raise it with what is added to tables, and say there since when it is (`Table.since`)."""


def _cluster_version(view: View) -> int:
    cluster = view.get(CLUSTER, "cluster")
    return cluster.schema if cluster is not None else VERSION


SCHEMA = Schema(
    CLUSTER,
    AUTHORITY,
    ROTATIONS,
    HOLDINGS,
    MASTERS,
    JOIN_GRANTS,
    NODES,
    REMOVED_NODES,
    TOKENS,
    WRAPPING,
    KEY_HOLDINGS,
    DATA_KEYS,
    SECRETS,
    SECRET_VERSIONS,
    LOGINS,
    DONE,
    SERVICES,
    REVISIONS,
    DEPLOYMENTS,
    FENCING_TOKENS,
    TASKS,
    GONE_TASKS,
    HOMES,
    SPECS,
    HOOKS,
    DELIVERIES,
    SEEN,
    DELIVERY_COUNTER,
    SERVINGS,
    CERTIFICATES,
    ACME,
    ORDERS,
    version=VERSION,
    cluster_version=_cluster_version,
)
