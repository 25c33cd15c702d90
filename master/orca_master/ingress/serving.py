"""Which nodes have an ingress: all, or, where any node has the label `ingress`, those that have it. Pure."""

from orca_master.cluster.model import NODES, Node
from orca_master.state.table import View

LABEL = "ingress"
"""`false` is as not having it."""


def serving_nodes(view: View) -> list[Node]:
    """In order of their names."""
    nodes = sorted(view.scan(NODES), key=lambda node: node.name)
    chosen = [node for node in nodes if node.all_labels.get(LABEL, "false") != "false"]
    return chosen or nodes
