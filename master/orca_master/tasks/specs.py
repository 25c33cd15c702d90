"""Specs that a worker asks for by hash: of its own tasks only, values of secrets only for a start."""

from collections.abc import Iterable

from orca_master.identity.secrets.vault import Vault
from orca_master.state.table import View
from orca_master.tasks import wire
from orca_master.tasks.model import TASKS, TaskState, Wanted
from orca_master.tasks.operations import spec_of
from orca_master.tasks.secrets import fill_in, leave_out
from orca_proto import worker_pb2 as pb

MOST_AT_ONCE = 64
"""Of at most 256 KiB each: an answer fits into a message."""


def answer(view: View, vault: Vault, node_id: str, hashes: Iterable[str]) -> pb.Specs:
    """What this node may have of these specs now. At most MOST_AT_ONCE of them."""
    found = pb.Specs()
    for hash in hashes:
        tasks = [task for task in view.find(TASKS, "spec", hash) if task.node == node_id]
        if not tasks:
            found.unknown.append(hash)
            continue
        spec = spec_of(view, tasks[0])
        message = wire.spec(spec)
        if any(t.wanted is Wanted.RUN and t.observed.state < TaskState.STARTING for t in tasks):
            fill_in(view, vault, spec, message)
        else:
            leave_out(spec, message)
        found.specs[hash].CopyFrom(message)
    return found
