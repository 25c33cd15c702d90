"""Which revision each replica is to run, at this point of a rollout. Pure.

A slot whose turn has not come keeps what it has, and gets the revision that the rollout started from if
it loses that. A slot that was moved gets the new one. While a canary or a green set is held, its slots
have both, side by side; where two cannot stand side by side, the new one takes the slot.
"""

from orca_master.services.reconcile import Lane
from orca_master.services.rollouts.model import Deployment, DeploymentState
from orca_master.services.rollouts.scene import Scene
from orca_master.services.strategy import Rollout, Strategy


def lanes(deployment: Deployment, rollout: Rollout, scene: Scene) -> dict[int, Lane]:
    """One for each slot. Nothing for a deployment that is over, but for its old replicas' warm time."""
    if deployment.state.is_over:
        if not is_warm(deployment, rollout, scene.now):
            return {}
        lane = Lane(deployment.revision, beside=deployment.base)
        return dict.fromkeys(scene.slots, lane)
    if deployment.holding:
        return _held(deployment, rollout, scene)
    beside = deployment.origin if _keeps_old(deployment, rollout) else 0
    moved = moved_slots(deployment, scene)
    is_back = deployment.state is DeploymentState.REVERTING
    spares = 0 if is_back else deployment.origin
    return {
        slot: Lane(deployment.goal, beside=beside, drops=True, spares=spares)
        if slot in moved
        else Lane(_staying(deployment, scene, slot), drops=True)
        for slot in scene.slots
    }


def held_slots(deployment: Deployment, rollout: Rollout, replicas: int) -> range:
    """The slots of the second set, while it is held."""
    if deployment.strategy is Strategy.CANARY:
        return range(1, rollout.canary.replicas(replicas) + 1)
    return range(1, replicas + 1)


def moved_slots(deployment: Deployment, scene: Scene) -> set[int]:
    """Also those that have a ready replica of the revision already, and, on the way back, those that have
    none that is ready: there is nothing to lose."""
    goal, is_back = deployment.goal, deployment.state is DeploymentState.REVERTING
    return {
        slot
        for slot in scene.slots
        if slot <= deployment.moved
        or scene.has_ready(slot, goal)
        or (is_back and not scene.has_ready(slot))
    }


def is_warm(deployment: Deployment, rollout: Rollout, now: float) -> bool:
    """Whether the old replicas of a rollout that succeeded are kept for an instant way back."""
    return (
        deployment.state is DeploymentState.SUCCEEDED
        and _keeps_old(deployment, rollout)
        and now < deployment.ended_at + rollout.keep_old
    )


def _keeps_old(deployment: Deployment, rollout: Rollout) -> bool:
    is_on = deployment.state is not DeploymentState.REVERTING and not deployment.stop_first
    return is_on and rollout.keep_old > 0 and deployment.base > 0


def _held(deployment: Deployment, rollout: Rollout, scene: Scene) -> dict[int, Lane]:
    held = held_slots(deployment, rollout, scene.replicas)
    found = {}
    for slot in scene.slots:
        staying = _staying(deployment, scene, slot)
        if slot not in held:
            found[slot] = Lane(staying, drops=True)
        elif deployment.stop_first:
            found[slot] = Lane(deployment.goal)
        else:
            found[slot] = Lane(staying, beside=deployment.goal, drops=True)
    return found


def _staying(deployment: Deployment, scene: Scene, slot: int) -> int:
    """The revision that a slot keeps whose turn has not come."""
    alive = scene.alive(slot)
    others = [task for task in alive if task.revision != deployment.goal]
    if others:
        best = max(others, key=lambda t: (scene.is_ready(t), t.revision == deployment.origin))
        return best.revision
    has_goal = any(task.revision == deployment.goal for task in alive)
    if has_goal and not deployment.holding:
        return deployment.goal
    return deployment.origin or deployment.goal
