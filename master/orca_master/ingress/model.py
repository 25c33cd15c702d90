"""What nodes say of their ingress."""

import msgspec

from orca_master.state.table import Table


class Serving(msgspec.Struct, frozen=True, omit_defaults=True):
    """Observed. `state`: idle, serving or failed; `reason`: why, in words."""

    node: str
    state: str
    reason: str = ""
    http_port: int = 0
    https_port: int = 0


SERVINGS = Table("servings", Serving, key=lambda s: (s.node,))
