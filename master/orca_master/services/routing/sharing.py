"""Which replicas get requests, and how much of them. Pure.

Only replicas that are ready, and are to go on. While a canary is held its revision gets the share of its
step, whatever the numbers of replicas; a green set gets nothing before it is switched to, and all of it from
then on; of a canary or a green set that is left nothing gets anything. In a rolling change all that are
ready count alike. Whoever is ready gets what there is when those that should are not.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from orca_master.services.rollouts.advance import weight
from orca_master.services.rollouts.model import Deployment, DeploymentState
from orca_master.services.strategy import Rollout, Strategy
from orca_master.tasks.model import Task, Wanted


def takes_requests(task: Task, down: Collection[str]) -> bool:
    """`down`: ids of nodes that are so."""
    is_on = task.wanted is Wanted.RUN and task.is_ready and task.node not in down
    return is_on and bool(task.observed.host_port)


def weights(
    tasks: Sequence[Task], revision: int, going: Deployment | None, rollout: Rollout
) -> Mapping[int, int]:
    """How much each replica of a revision counts, as small whole numbers above zero; a revision that is not
    named gets nothing. `tasks`: those that take requests; `going`: the deployment that is open."""
    count: dict[int, int] = {}
    for task in tasks:
        count[task.revision] = count.get(task.revision, 0) + 1
    alike = dict.fromkeys(count, 1)
    if going is None:
        return {revision: 1} if revision in count else alike
    others = {number for number in count if number != going.goal}
    if going.holding:
        return _split(count, others, going.goal, weight(going, rollout))
    is_set = going.strategy in (Strategy.BLUE_GREEN, Strategy.CANARY)
    is_switched = going.strategy is Strategy.BLUE_GREEN or (
        is_set and going.state is DeploymentState.REVERTING
    )
    return {going.goal: 1} if is_switched and going.goal in count else alike


def canary_revision(going: Deployment | None) -> int:
    """The one that testers are sent to; 0: there is none."""
    is_held = going is not None and going.holding and going.strategy is Strategy.CANARY
    return going.goal if going is not None and is_held else 0


def _split(count: Mapping[int, int], others: set[int], goal: int, percent: int) -> dict[int, int]:
    """The goal's replicas together get so many percent, all others together the rest."""
    new, old = count.get(goal, 0), sum(count[number] for number in others)
    if not new or not old:
        return dict.fromkeys(count, 1)
    if percent == 0:
        return dict.fromkeys(others, 1)
    if percent == 100:
        return {goal: 1}
    of_goal, of_others = percent * old, (100 - percent) * new
    common = math.gcd(of_goal, of_others)
    return {goal: of_goal // common} | dict.fromkeys(others, of_others // common)
