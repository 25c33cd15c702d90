"""What the endpoints of rollouts answer."""

from typing import Any

import msgspec

from orca_master.services.rollouts.model import Deployment, Revision


class RevisionOut(msgspec.Struct, frozen=True):
    """An accepted change. `stable`: all replicas ran it at the end of a rollout; `rejected`: it was left
    again by a rollback or a revert; `current`: replicas are taken to it; `spec`: how a replica runs;
    `secrets`: the version of each (`KEY`, or `project/KEY`); `image_digest`: its image, whatever the tag
    means by now (null: it has not run yet, or its image came from no registry)."""

    revision: int
    current: bool
    stable: bool
    rejected: bool
    made_at: float
    by: str
    message: str
    spec: dict[str, Any]
    secrets: dict[str, int]
    image_digest: str | None


class RevisionsOut(msgspec.Struct, frozen=True):
    """The newest first."""

    service: str
    project: str
    revisions: list[RevisionOut]


class SentenceOut(msgspec.Struct, frozen=True):
    """A decision, `at` in Unix seconds."""

    at: float
    text: str


class DeploymentOut(msgspec.Struct, frozen=True):
    """One way of a service from revision `base` to `revision`. `ready`: how many replicas have arrived;
    `step`: of a canary, from 1; `weight`: its share of requests, in percent; `said`: what was decided."""

    deployment: int
    kind: str
    revision: int
    base: int | None
    strategy: str
    order: str
    state: str
    ready: int
    step: int | None
    weight: int | None
    reason: str | None
    by: str
    message: str
    started_at: float
    ended_at: float | None
    said: list[SentenceOut]


class DeploymentsOut(msgspec.Struct, frozen=True):
    """The newest first."""

    service: str
    project: str
    deployments: list[DeploymentOut]


class RolloutDone(msgspec.Struct, frozen=True):
    """`ok`: what was done; `deployment`: the one that shows what becomes of it."""

    ok: str
    deployment: int
    revision: int


def revision_out(revision: Revision, current: int) -> RevisionOut:
    return RevisionOut(
        revision=revision.number,
        current=revision.number == current,
        stable=revision.stable_at > 0,
        rejected=revision.rejected,
        made_at=revision.made_at,
        by=revision.by,
        message=revision.message,
        spec=msgspec.to_builtins(revision.spec),
        secrets={use.name: use.version for use in revision.secrets},
        image_digest=revision.image_digest or revision.spec.image.partition("@")[2] or None,
    )


def deployment_out(deployment: Deployment, weight: int | None) -> DeploymentOut:
    return DeploymentOut(
        deployment=deployment.number,
        kind=deployment.kind,
        revision=deployment.revision,
        base=deployment.base or None,
        strategy=deployment.strategy,
        order="stop-first" if deployment.stop_first else "start-first",
        state=deployment.state,
        ready=deployment.settled,
        step=deployment.stage + 1 if weight is not None else None,
        weight=weight,
        reason=deployment.reason or None,
        by=deployment.by,
        message=deployment.message,
        started_at=deployment.started_at,
        ended_at=deployment.ended_at or None,
        said=[SentenceOut(each.at, each.text) for each in deployment.said],
    )
