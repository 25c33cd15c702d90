"""A revision's image is what its tag meant when its first replica ran, whatever the tag means later.

The first replica that tells its digest settles it for the revision. Replicas that are made after that are
told to run that digest; one that found another, because the tag moved in between, is replaced.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from orca_master.services.model import Service, ServiceSpec
from orca_master.services.rollouts.advance import say
from orca_master.services.rollouts.model import DEPLOYMENTS, REVISIONS, Revision
from orca_master.services.rollouts.operations import last_deployment, revision_of
from orca_master.state.transaction import Transaction, View
from orca_master.tasks import operations as tasks
from orca_master.tasks.model import Task, Wanted


def pinned(view: View, service: Service, number: int, spec: ServiceSpec) -> ServiceSpec:
    """The spec of a revision, with the digest of its image if that is known."""
    revision = revision_of(view, service, number)
    if revision is None or not revision.image_digest or not _is_by_tag(spec):
        return spec
    return replace(spec, image=f"{spec.image}@{revision.image_digest}")


def settle(tx: Transaction, service: Service, mine: Sequence[Task], *, now: float) -> None:
    """Take in what `mine`, the service's tasks, have told of their images."""
    telling = [task for task in mine if task.observed.image_digest]
    for number in sorted({task.revision for task in telling}):
        revision = revision_of(tx, service, number)
        if revision is not None and _is_by_tag(revision.spec):
            of_it = [task for task in telling if task.revision == number]
            _settle_one(tx, service, revision, of_it, mine, now)


def _is_by_tag(spec: ServiceSpec) -> bool:
    """What must not be pulled is what each node has under the name."""
    return bool(spec.image) and "@" not in spec.image and spec.pull_policy != "never"


def _settle_one(
    tx: Transaction,
    service: Service,
    revision: Revision,
    telling: Sequence[Task],
    mine: Sequence[Task],
    now: float,
) -> None:
    if not revision.image_digest:
        first = min(telling, key=lambda task: (task.created_at, task.order))
        revision = replace(revision, image_digest=first.observed.image_digest)
        tx.put(REVISIONS, revision)
    others = [
        task
        for task in telling
        if task.wanted is Wanted.RUN
        and not task.observed.state.is_over
        and task.observed.image_digest != revision.image_digest
        and "@" not in tasks.spec_of(tx, task).image
    ]
    leaving = _dispensable(service, others, mine)
    if leaving:
        _say(tx, service, revision, leaving, now)
    for task in leaving:
        tasks.stop(tx, task)


def _dispensable(service: Service, others: Sequence[Task], mine: Sequence[Task]) -> list[Task]:
    """Those of `others` that serve nobody, or beside whom another of their slot does. Of the rest one, if
    all other slots are ready: workers that were just upgraded may tell of many at once."""
    ids = {task.id for task in others}
    ready = [t.slot for t in mine if t.is_ready and t.wanted is Wanted.RUN and t.id not in ids]
    idle = [task for task in others if not task.is_ready or task.slot in ready]
    serving = [task for task in others if task not in idle]
    covered = {*ready, *(task.slot for task in serving)}
    if not idle and serving and covered >= set(range(1, service.wanted_replicas + 1)):
        return serving[:1]
    return idle


def _say(
    tx: Transaction, service: Service, revision: Revision, others: Iterable[Task], now: float
) -> None:
    going = last_deployment(tx, service)
    if going is None:
        return
    for task in others:
        found = task.observed.image_digest
        text = (
            f"replica {task.slot} found {found[:19]}… under {revision.spec.image}, and revision"
            f" {revision.number} is {revision.image_digest[:19]}…: the tag has moved; it is replaced"
        )
        going = say(going, text, now)
    tx.put(DEPLOYMENTS, going)
