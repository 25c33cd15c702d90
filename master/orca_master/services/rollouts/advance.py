"""How a rollout gets on: one step, from what is seen now. Pure.

First of all: have the new replicas failed? Then, while a second set is held: is it ready, is its step
over? Else: which slots come next? Whatever is decided is said, in a sentence that stays with the deployment.
"""

import math
from collections.abc import Iterator

from msgspec.structs import replace

from orca_master.services.rollouts.lanes import held_slots, moved_slots
from orca_master.services.rollouts.model import (
    MOST_SENTENCES,
    Deployment,
    DeploymentState,
    PausedFor,
    Sentence,
)
from orca_master.services.rollouts.scene import Scene, is_waiting_for_place
from orca_master.services.strategy import OnFailure, Rollout, Step, Strategy
from orca_master.tasks.endings import describe_end
from orca_master.tasks.model import Task, Wanted

TRIES = 3
"""So often a new replica may end, or not start, before its rollout has failed."""
PLACE_PATIENCE_SECONDS = 30.0
"""So long a new replica may find no node before its rollout has failed."""


def say(deployment: Deployment, text: str, now: float) -> Deployment:
    """Of many sentences the first and the last ones are kept."""
    first, last = deployment.said[:1], deployment.said[1:][2 - MOST_SENTENCES :]
    return replace(deployment, said=(*first, *last, Sentence(now, text)))


def advance(deployment: Deployment, rollout: Rollout, scene: Scene) -> Deployment:
    """The deployment as it is after this look; the same object if nothing has changed."""
    if deployment.state.is_over:
        return deployment
    if deployment.state is not DeploymentState.REVERTING:
        why = failure(deployment, rollout, scene)
        if why is not None and rollout.on_failure is not OnFailure.CONTINUE:
            return failed(deployment, rollout, why, scene.now)
        if why is not None and not deployment.reason:
            noted = replace(deployment, reason=why)
            deployment = say(noted, f"{why}; going on, as on_failure says", scene.now)
    if deployment.holding:
        return _hold(deployment, rollout, scene)
    deployment = _count(deployment, scene)
    if _has_arrived(deployment, rollout, scene):
        return _over(deployment, scene)
    if deployment.state is DeploymentState.PAUSED:
        return deployment
    return _move(deployment, rollout, scene)


def next_look(deployment: Deployment, rollout: Rollout, scene: Scene) -> float:
    """When time alone could change something; Unix seconds, infinite for never."""
    return min(
        (at for at in _moments(deployment, rollout, scene) if at > scene.now), default=math.inf
    )


def _moments(deployment: Deployment, rollout: Rollout, scene: Scene) -> Iterator[float]:
    yield deployment.ended_at + rollout.keep_old
    if deployment.state.is_over:
        return
    for task in scene.tasks:
        if task.revision == deployment.goal and task.wanted is Wanted.RUN:
            yield task.ready_at + scene.settle
            yield _since(task) + PLACE_PATIENCE_SECONDS
            yield _since(task) + rollout.healthy_deadline
    if deployment.state is not DeploymentState.PAUSED:
        yield deployment.progress_at + rollout.progress_deadline
        if deployment.holding and deployment.stage_at:
            yield deployment.stage_at + _step(deployment, rollout).seconds


def failure(deployment: Deployment, rollout: Rollout, scene: Scene) -> str | None:
    """Why the new replicas are held to have failed; None: they are not. Time stands still while paused."""
    if not deployment.base:
        return None
    is_running = deployment.state is DeploymentState.RUNNING
    for slot in scene.slots:
        for task in scene.wanted(slot):
            if task.revision == deployment.revision:
                why = _has_failed(task, rollout, scene, is_running=is_running)
                if why:
                    return f"replica {slot}: {why}"
    waited = scene.now - deployment.progress_at
    is_moving = is_running and not (deployment.holding and deployment.stage_at)
    if is_moving and waited >= rollout.progress_deadline:
        return f"nothing got on for {rollout.progress_deadline:g} s"
    return None


def _has_failed(task: Task, rollout: Rollout, scene: Scene, *, is_running: bool) -> str:
    if task.observed.state.is_over:
        tries = task.attempt + 1
        return f"{describe_end(task)} (try {tries} of {TRIES})" if tries >= TRIES else ""
    if not is_running or scene.is_ready(task):
        return ""
    waited = scene.now - _since(task)
    if is_waiting_for_place(task) and waited >= PLACE_PATIENCE_SECONDS:
        return f"found no node for {PLACE_PATIENCE_SECONDS:g} s: {task.pending_reason}"
    if task.node and waited >= rollout.healthy_deadline:
        reason = f": {task.observed.reason}" if task.observed.reason else ""
        return f"was not ready within {rollout.healthy_deadline:g} s{reason}"
    return ""


def _since(task: Task) -> float:
    return max(task.created_at, task.not_before)


def failed(deployment: Deployment, rollout: Rollout, why: str, now: float) -> Deployment:
    """What `on_failure` says, but for going on."""
    if rollout.on_failure is OnFailure.REVERT:
        return go_back(deployment, why, now)
    if deployment.paused_for is PausedFor.FAILURE:
        return deployment
    return say(
        paused(deployment, PausedFor.FAILURE, why), f"{why}; paused: resume it or roll back", now
    )


def paused(deployment: Deployment, paused_for: PausedFor, why: str) -> Deployment:
    return replace(deployment, state=DeploymentState.PAUSED, paused_for=paused_for, reason=why)


def resumed(deployment: Deployment, now: float) -> Deployment:
    """Running again, with its deadlines from now on."""
    return replace(
        deployment,
        state=DeploymentState.RUNNING,
        paused_for=None,
        reason="",
        progress_at=now,
    )


def go_back(deployment: Deployment, why: str, now: float) -> Deployment:
    """To where it came from. What is ready there is not touched, whatever of the new is not is stopped."""
    back = replace(
        resumed(deployment, now),
        state=DeploymentState.REVERTING,
        holding=False,
        moved=0,
        settled=0,
        reason=why,
    )
    return say(back, f"{why}; going back to revision {deployment.base}", now)


def _step(deployment: Deployment, rollout: Rollout) -> Step:
    stages = rollout.canary.stages
    return stages[min(deployment.stage, len(stages) - 1)]


def weight(deployment: Deployment, rollout: Rollout) -> int:
    """The new revision's share of requests while a second set is held, in percent."""
    if deployment.strategy is Strategy.CANARY and deployment.stage_at:
        return _step(deployment, rollout).weight
    return 0


def _hold(deployment: Deployment, rollout: Rollout, scene: Scene) -> Deployment:
    held = held_slots(deployment, rollout, scene.replicas)
    ready = scene.settled(deployment.goal, held)
    if ready != deployment.settled:
        deployment = replace(deployment, settled=ready, progress_at=scene.now)
    if ready < len(held):
        return deployment
    if deployment.strategy is not Strategy.CANARY:
        return _switched(deployment, scene)
    if not deployment.stage_at:
        return enter_stage(deployment, rollout, deployment.stage, scene.now)
    step = _step(deployment, rollout)
    if deployment.state is DeploymentState.PAUSED or _waits(deployment, rollout):
        return deployment
    if scene.now < deployment.stage_at + step.seconds:
        return deployment
    if deployment.stage + 1 < len(rollout.canary.stages):
        return enter_stage(deployment, rollout, deployment.stage + 1, scene.now)
    return promote(deployment, rollout, scene.replicas, "its last step is over", scene.now)


def enter_stage(deployment: Deployment, rollout: Rollout, stage: int, now: float) -> Deployment:
    """Begin a step of the canary; one that waits for somebody is paused at once."""
    stages = rollout.canary.stages
    step = stages[stage]
    entered = replace(resumed(deployment, now), stage=stage, stage_at=now)
    where = f"step {stage + 1} of {len(stages)}, " if len(stages) > 1 else ""
    text = f"canary of revision {deployment.revision}: {where}weight {step.weight}"
    if not _waits(entered, rollout):
        return say(entered, f"{text} for {step.seconds:g} s", now)
    is_last = stage + 1 == len(stages)
    until = "waits to be promoted" if is_last else "waits to be resumed"
    why = f"{text}; {until}"
    return say(paused(entered, PausedFor.STEP, why), why, now)


def _waits(deployment: Deployment, rollout: Rollout) -> bool:
    """Whether the step lasts until somebody says so."""
    is_last = deployment.stage + 1 >= len(rollout.canary.stages)
    return _step(deployment, rollout).pause or (is_last and not rollout.canary.auto_promote)


def promote(
    deployment: Deployment, rollout: Rollout, replicas: int, why: str, now: float
) -> Deployment:
    """The canary's revision for all replicas."""
    moved = len(held_slots(deployment, rollout, replicas))
    going = replace(resumed(deployment, now), holding=False, moved=moved)
    return say(going, f"{why}: revision {deployment.revision} takes all {replicas} replicas", now)


def _switched(deployment: Deployment, scene: Scene) -> Deployment:
    switched = replace(deployment, holding=False, moved=scene.replicas, progress_at=scene.now)
    text = f"all {scene.replicas} replicas of revision {deployment.goal} are ready: switched over"
    return say(switched, text, scene.now)


def _count(deployment: Deployment, scene: Scene) -> Deployment:
    settled = scene.settled(deployment.goal, scene.slots)
    if settled == deployment.settled:
        return deployment
    counted = replace(deployment, settled=settled, progress_at=scene.now)
    text = f"{settled} of {scene.replicas} replicas run revision {deployment.goal}"
    return say(counted, text, scene.now)


def _has_arrived(deployment: Deployment, rollout: Rollout, scene: Scene) -> bool:
    if deployment.settled < scene.replicas:
        return False
    others = scene.others(deployment.goal)
    if rollout.keep_old > 0 and deployment.state is not DeploymentState.REVERTING:
        others = [task for task in others if task.revision != deployment.origin]
    return not others


def _over(deployment: Deployment, scene: Scene) -> Deployment:
    is_back = deployment.state is DeploymentState.REVERTING
    state = DeploymentState.REVERTED if is_back else DeploymentState.SUCCEEDED
    over = replace(
        deployment,
        state=state,
        ended_at=scene.now,
        reason=deployment.reason if is_back else "",
    )
    took = scene.now - deployment.started_at
    text = f"{state.value}: revision {deployment.goal} is what runs, after {took:.1f} s"
    return say(over, text, scene.now)


def _move(deployment: Deployment, rollout: Rollout, scene: Scene) -> Deployment:
    if deployment.strategy is Strategy.RECREATE:
        moved = max(deployment.moved, scene.replicas)
    else:
        moved = _furthest(deployment, rollout, scene)
    if moved == deployment.moved:
        return deployment
    next_ones = f"{deployment.moved + 1} to {moved}"
    if moved == deployment.moved + 1:
        next_ones = str(moved)
    going = replace(deployment, moved=moved, progress_at=scene.now)
    return say(going, f"next for revision {deployment.goal}: {next_ones}", scene.now)


def _furthest(deployment: Deployment, rollout: Rollout, scene: Scene) -> int:
    """Up to which slot the new revision may go now. Where nothing was stable before, there is nothing to go
    back to, and slots that have nothing ready wait for nobody."""
    done = moved_slots(deployment, scene)
    on_way = sum(scene.is_on_way(slot, deployment.goal) for slot in done)
    parallel = max(1, rollout.max_parallel.of(scene.replicas))
    bound = rollout.max_unavailable if deployment.stop_first else rollout.max_surge
    most = parallel if bound is None else max(1, min(parallel, bound.of(scene.replicas)))
    budget = most - on_way
    if deployment.stop_first:
        missing = sum(not scene.has_ready(slot) for slot in scene.slots)
        budget = min(parallel - on_way, most - missing)
    moved = deployment.moved
    for slot in range(moved + 1, scene.replicas + 1):
        is_empty = (deployment.stop_first or not deployment.base) and not scene.has_ready(slot)
        is_free = slot in done or is_empty
        if not is_free and budget <= 0:
            break
        budget -= not is_free
        moved = slot
    return moved
