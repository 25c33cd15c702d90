"""The accounts with which a node may pull its own tasks' images, put into what goes to its worker.

The dispatcher calls this for each list of tasks, on the node's stream with mutual TLS. A list has all of
them, so that a changed one is used from the next pull.
"""

from collections.abc import Iterable, Mapping

from orca_master.errors import NotReady
from orca_master.identity.registries.accounts import Accounts
from orca_master.identity.registries.model import Login
from orca_master.identity.registries.operations import login_for
from orca_master.identity.wrapping.keyring import KeyAway
from orca_master.state.table import View
from orca_master.tasks.model import Task, TaskSpec, Wanted
from orca_proto import worker_pb2 as pb
from orca_proto.images import host_of


def add_accounts(
    view: View,
    accounts: Accounts,
    tasks: Iterable[Task],
    specs: Mapping[str, TaskSpec],
    message: pb.Assignments,
) -> None:
    """Of the registries that images of tasks to be run name; what cannot be opened says why. KeyAway."""
    needed = {
        (task.tenant, task.project, host_of(specs[task.spec].image))
        for task in tasks
        if task.wanted is Wanted.RUN and specs[task.spec].image
    }
    for tenant, project, host in sorted(needed):
        login = login_for(view, tenant, project, host)
        if login is not None:
            message.accounts.append(_account(accounts, project, login))


def _account(accounts: Accounts, project: str, login: Login) -> pb.RegistryAccount:
    message = pb.RegistryAccount(
        project=project, host=login.host, username=login.username, scope=login.project
    )
    try:
        message.password = accounts.open(login).password
    except KeyAway:
        raise
    except NotReady as error:
        message.lacks = error.message
    return message
