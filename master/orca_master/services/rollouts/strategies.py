"""What of a wanted strategy can really be done for a service, and why not more. Pure."""

from orca_master.services.model import ServiceSpec
from orca_master.services.rollouts.model import Kind
from orca_master.services.strategy import Order, Rollout, Strategy


def stops_first(rollout: Rollout, new: ServiceSpec, old: ServiceSpec | None) -> str:
    """Why the old replica of a slot stops before the new one starts; empty: it does not."""
    if rollout.strategy is Strategy.RECREATE:
        return "the strategy is recreate"
    specs = [new] if old is None else [new, old]
    if any(spec.fence for spec in specs):
        return "its replicas are fenced"
    if any(spec.host_port for spec in specs):
        return f"host_port {new.host_port or specs[-1].host_port} is one per node"
    if rollout.order is Order.STOP_FIRST:
        return "order says so"
    return ""


def truly(rollout: Rollout, kind: Kind, *, stop_first: bool) -> tuple[Strategy, str]:
    """The strategy that is used, and why it is not the one that was asked for."""
    wanted = rollout.strategy
    if wanted is Strategy.CANARY and kind is not Kind.DEPLOY:
        return Strategy.ROLLING, f"no canary: this is a {kind.value}"
    if wanted is Strategy.BLUE_GREEN and stop_first:
        return Strategy.ROLLING, "not blue-green: two sets cannot stand side by side"
    return wanted, ""
