"""Probes through the API: refusals, results in the status, why a replica ended and when it is tried again."""

import asyncio
from collections.abc import Callable
from typing import Any

from inprocess import InProcess

MISSING = {"command": ["no-such-command"], "interval_seconds": 0.1, "timeout_seconds": 0.2}
PASSING = {"command": ["exit", "0"], "interval_seconds": 0.1}


async def test_mistakes_in_probes_are_named_at_once(cluster: InProcess) -> None:
    answer = await cluster.deploy(
        {"name": "a", "readiness": {"path": "x", "interval_seconds": -1}, "liveness": {"port": 0}}
    )
    assert answer.status == 400
    fields = {problem["field"] for problem in answer.json["problems"]}
    assert fields == {
        "services.0.readiness.path",
        "services.0.readiness.interval_seconds",
        "services.0.liveness.port",
    }


async def test_a_deploy_that_is_not_ready_says_what_its_probe_said(cluster: InProcess) -> None:
    answer = await cluster.deploy({"name": "web", "readiness": MISSING}, timeout="0.5")
    (error,) = answer.json["errors"]
    words = "readiness check command no-such-command: command not found: no-such-command"
    assert words in error
    shown = await cluster.until("web", status="pending")
    assert shown["reason"] == f"replica 1: {words}"
    assert shown["tasks"][0]["probes"] == words


async def test_one_whose_liveness_fails_is_replaced_and_the_status_says_why(
    cluster: InProcess,
) -> None:
    failing = {"command": ["exit", "7"], "interval_seconds": 0.1, "failure_threshold": 2}
    await cluster.deploy({"name": "web", "readiness": PASSING, "liveness": failing}, wait="false")
    (first,) = [task["id"] for task in (await cluster.until("web", revision=1))["tasks"]]
    words = "liveness check command exit 7: exited with code 7 (2 of 2)"
    shown = await cluster.until("web", status="failed")
    assert shown["reason"] == f"replica 1: {words}"
    again = await shown_when(cluster, lambda task: task["attempt"] > 0)
    assert again["id"] != first


async def test_an_end_is_told_with_its_signal_and_its_last_lines(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (first,) = cluster.worker.machine.things
    cluster.worker.runtime.write(first, b"loading\n\x1b[31mno room\x1b[0m\n")
    cluster.worker.runtime.crash(first, 137)
    shown = await cluster.until("web", status="failed")
    words = "was killed by SIGKILL (exit code 137); it said last: loading | no room"
    assert shown["reason"] == f"replica 1: {words}"


async def test_what_fails_again_and_again_says_when_it_is_tried_next(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "command": ["exit", "9"]}, wait="false")
    task = await shown_when(cluster, lambda task: task["attempt"] > 1 and task["next_try_at"])
    assert abs(task["next_try_at"] - cluster.core.env.now()) < 600
    assert (task["state"], task["reason"]) == ("pending", "exited with code 9")


async def shown_when(cluster: InProcess, is_so: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The first of the tasks of `web` of which that is so."""
    async with cluster.waiting():
        while True:
            for task in (await cluster.status("web"))["tasks"]:
                if is_so(task):
                    found: dict[str, Any] = task
                    return found
            await asyncio.sleep(0.02)
