"""The verbs of registries' accounts: set, remove, and find the one that is used."""

from orca_master.errors import Conflict, NotFound
from orca_master.identity.registries.model import CLUSTER_SCOPE, LOGINS, Login
from orca_master.state.transaction import Transaction, View

MOST_LOGINS = 1000


def set_login(tx: Transaction, login: Login) -> None:
    """In place of what there was. Raises Conflict."""
    known = tx.get(LOGINS, login.tenant, login.project, login.host)
    if known is None and len(logins_of(tx, login.tenant)) >= MOST_LOGINS:
        raise Conflict(
            f"there are accounts at {MOST_LOGINS} registries already:"
            " remove some with `orca registry logout`"
        )
    tx.put(LOGINS, login)


def remove_login(tx: Transaction, tenant: str, project: str, host: str) -> None:
    """Raises NotFound."""
    if tx.get(LOGINS, tenant, project, host) is None:
        whose = f"project {project}" if project else "the cluster"
        raise NotFound("account", f"of {whose} at registry {host}")
    tx.delete(LOGINS, tenant, project, host)


def login_for(view: View, tenant: str, project: str, host: str) -> Login | None:
    """The project's own goes before the cluster's."""
    own = view.get(LOGINS, tenant, project, host)
    return own if own is not None else view.get(LOGINS, tenant, CLUSTER_SCOPE, host)


def logins_of(view: View, tenant: str) -> list[Login]:
    """By project and host."""
    return view.find(LOGINS, "tenant", tenant)
