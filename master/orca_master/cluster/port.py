"""What the cluster asks of a layer above it: what runs on its nodes."""

from dataclasses import dataclass
from typing import Protocol

from orca_master.state.transaction import Transaction, View


@dataclass(frozen=True, slots=True)
class Left:
    """A replica that has not ended on a node. `reason`: why it does not go elsewhere, if it should."""

    project: str
    name: str
    replica: int
    reason: str


class Work(Protocol):
    def left(self, view: View, node_id: str) -> list[Left]:
        """What was given to the node and has not ended, as far as is known."""
        ...

    def forget(self, tx: Transaction, node_id: str) -> None:
        """Nothing of it runs there any more."""
        ...
