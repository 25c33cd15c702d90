"""Writing the trail."""

from orca_master.audit.model import KIND, AuditEvent
from orca_master.state.transaction import Transaction


def trail(
    tx: Transaction, *, actor: str, action: str, resource: str, now: float, **details: object
) -> None:
    """Note, in the commit of the change itself, who made it. Details are told as text."""
    told = {name: str(value) for name, value in details.items()}
    tx.record(KIND, resource, AuditEvent(now, actor, action, resource, told))
