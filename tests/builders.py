"""Builders of rows for tests: each shows only what matters to the test."""

from typing import Any

from orca_master.cluster.model import Node, NodeFacts, NodeState
from orca_master.services.model import Service, ServiceSpec, owner_of
from orca_master.tasks.constraints import Constraints
from orca_master.tasks.model import Observed, Task, TaskSpec, TaskState, Wanted

GIB = 1 << 30
OWNER = owner_of("default", "default", "web")


def a_node(name: str = "n1", **fields: Any) -> Node:
    facts = NodeFacts(
        runtimes=fields.pop("runtimes", ("docker", "process")),
        memory_bytes=fields.pop("memory_bytes", 4 * GIB),
        cpu_millis=fields.pop("cpu_millis", 4000),
        labels=fields.pop("labels", {}),
        address=fields.pop("address", "10.0.0.1"),
        devices=fields.pop("devices", None),
    )
    fields.setdefault("state", NodeState.READY)
    return Node(id=f"id-{name}", name=name, joined_at=1.0, facts=facts, **fields)


def a_task(slot: int = 1, state: TaskState = TaskState.RUNNING, **fields: Any) -> Task:
    """Healthy if it runs; on node n1 unless it is pending."""
    observed = Observed(
        state=state,
        healthy=fields.pop("healthy", state is TaskState.RUNNING),
        reason=fields.pop("reason", ""),
        exit_code=fields.pop("exit_code", 0),
        started_at=fields.pop("started_at", 0.0),
        ended_at=fields.pop("ended_at", 0.0),
        container=fields.pop("container", ""),
        host_port=fields.pop("host_port", 0),
    )
    values: dict[str, Any] = {
        "id": f"t{slot}",
        "owner": OWNER,
        "project": "default",
        "name": "web",
        "revision": 1,
        "slot": slot,
        "spec": "h",
        "created_at": 10.0,
        "node": "" if state is TaskState.PENDING else "id-n1",
        "constraints": Constraints(),
        "wanted": Wanted.RUN,
    }
    return Task(**(values | fields), observed=observed)


def a_service(replicas: int = 1, **fields: Any) -> Service:
    values: dict[str, Any] = {
        "tenant": "default",
        "project": "default",
        "name": "web",
        "spec": ServiceSpec(image="app:1"),
        "revision": 1,
        "created_at": 1.0,
        "updated_at": 1.0,
    }
    return Service(**(values | fields), replicas=replicas)


def a_spec(**fields: Any) -> TaskSpec:
    return TaskSpec(**({"runtime": "docker", "image": "app:1"} | fields))
