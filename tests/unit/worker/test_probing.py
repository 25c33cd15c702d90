"""A task's probes in virtual time: when they are asked, what is reported, who is ended."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from fake_guardian import a_fencing
from fake_runtime import FakeRuntime
from orca_proto import worker_pb2 as pb
from orca_worker.agent import Agent
from sim.env import sim_env
from sim.virtual_time import run_virtual

Answer = Callable[[float], str | None]
"""By the time since the start: None, or what is wrong."""


@dataclass
class Prober:
    """By the path."""

    answers: dict[str, Answer]
    asked: dict[str, list[float]] = field(default_factory=dict)
    takes: float = 0.0
    at_once: int = 0
    most_at_once: int = 0

    async def check(self, probe: pb.Probe, host: str, port: int) -> str | None:
        self.asked.setdefault(probe.path, []).append(asyncio.get_running_loop().time())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.takes)
        self.at_once -= 1
        return self.answers[probe.path](asyncio.get_running_loop().time())


@dataclass
class Seen:
    at: float
    status: pb.TaskStatus


class Node:
    """One worker with one task; everything that it told."""

    def __init__(self, spec: pb.TaskSpec, **answers: Answer) -> None:
        self.prober = Prober({f"/{name}": answer for name, answer in answers.items()})
        self.spec = spec
        self.seen: list[Seen] = []

    def run(self, seconds: float, *, was_ready: bool = False) -> "Node":
        run_virtual(self.live(seconds, was_ready=was_ready))
        return self

    async def live(self, seconds: float, *, was_ready: bool = False) -> None:
        env = sim_env(7)
        self.runtime = FakeRuntime(env)
        agent = Agent(
            env, {"docker": self.runtime}, self.prober, a_fencing(env), cluster="test", node="n1"
        )
        tasks = [asyncio.create_task(agent.run()), asyncio.create_task(self._listen(agent))]
        task = pb.Task(
            id="t1", service="web", spec_hash="h", wanted=pb.WANTED_RUN, was_ready=was_ready
        )
        await agent.apply(
            pb.Assignments(revision=pb.Revision(version=1), tasks=[task], specs={"h": self.spec})
        )
        await asyncio.sleep(seconds)
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)

    async def _listen(self, agent: Agent) -> None:
        while True:
            for status in await agent.changes():
                self.seen.append(Seen(asyncio.get_running_loop().time(), status))

    @property
    def last(self) -> pb.TaskStatus:
        return self.seen[-1].status

    def when(self, *, healthy: bool) -> list[float]:
        """The times at which it became so."""
        said = [False] + [seen.status.healthy for seen in self.seen]
        return [
            seen.at
            for before, seen in zip(said, self.seen, strict=False)
            if before is not healthy and seen.status.healthy is healthy
        ]


def a_probe(path: str, **fields: float) -> pb.Probe:
    return pb.Probe(
        path=path,
        port=80,
        interval_seconds=fields.get("interval", 10),
        timeout_seconds=3,
        failure_threshold=int(fields.get("failures", 3)),
        success_threshold=int(fields.get("successes", 1)),
        delay_seconds=fields.get("delay", 0),
    )


def a_spec(**probes: pb.Probe) -> pb.TaskSpec:
    return pb.TaskSpec(runtime="docker", image="app:1", command=["serve"], port=80, **probes)


def well(_: float) -> None:
    return None


def between(first: float, last: float) -> Answer:
    return lambda at: "answered 503" if first <= at < last else None


def test_it_is_ready_soon_after_it_answers_and_asked_at_its_interval_then() -> None:
    node = Node(a_spec(readiness=a_probe("/r")), r=between(0, 1)).run(100)
    (ready,) = node.when(healthy=True)
    assert 1 <= ready < 2
    asked = node.prober.asked["/r"]
    assert asked[0] < 0.03
    later = [b - a for a, b in pairwise(asked) if a > ready]
    assert all(8.9 < wait < 11.1 for wait in later)
    assert len({round(wait, 3) for wait in later}) > 1, "jittered"
    assert len([seen for seen in node.seen if seen.status.healthy]) == 1, "no news is not told"


def test_unready_leaves_and_comes_back_without_a_restart() -> None:
    probe = a_probe("/r", interval=1, failures=2, successes=2)
    node = Node(a_spec(readiness=probe), r=between(10, 20)).run(40)
    (left,) = node.when(healthy=False)
    first, back = node.when(healthy=True)
    assert first < 1
    assert 11 <= left < 13 < 20 < back < 23
    reasons = [seen.status.reason for seen in node.seen if seen.at == left]
    assert reasons == ["readiness check http /r: answered 503 (2 of 2)"]
    assert node.last.state == pb.TASK_STATE_RUNNING
    assert (node.last.reason, node.last.healthy) == ("", True)
    assert [verb for _, verb, _ in node.runtime.history].count("start") == 1


def test_liveness_begins_when_it_was_ready_and_ends_what_fails_it() -> None:
    spec = a_spec(readiness=a_probe("/r"), liveness=a_probe("/l", interval=5))
    node = Node(spec, r=between(0, 60), l=lambda at: "refused" if at < 60 or at > 100 else None)
    node.run(200)
    assert min(node.prober.asked["/l"]) > 60
    assert node.last.state == pb.TASK_STATE_EXITED
    assert node.last.reason == "liveness check http /l: refused (3 of 3)"
    assert (node.last.exit_code, node.last.healthy) == (143, False)
    assert 110 < node.seen[-1].at < 118
    assert max(node.prober.asked["/r"]) < node.seen[-1].at, "nobody asks the dead"


def test_the_others_begin_when_startup_has_passed() -> None:
    spec = a_spec(
        startup=a_probe("/s", failures=30), readiness=a_probe("/r"), liveness=a_probe("/l")
    )
    node = Node(spec, s=between(0, 40), r=well, l=well).run(90)
    assert min(node.prober.asked["/r"]) > 40
    assert min(node.prober.asked["/l"]) > 40
    assert 40 < max(node.prober.asked["/s"]) < 41
    assert 40 < node.when(healthy=True)[0] < 42


def test_a_startup_that_fails_for_good_ends_it() -> None:
    node = Node(a_spec(startup=a_probe("/s", failures=3)), s=between(0, 1000)).run(100)
    assert node.last.state == pb.TASK_STATE_EXITED
    assert node.last.reason == "startup check http /s: answered 503 (for 30 s)"
    assert 30 <= node.seen[-1].at < 32


def test_without_readiness_it_is_ready_at_once() -> None:
    node = Node(a_spec(liveness=a_probe("/l")), l=well).run(30)
    assert [seen.status.state for seen in node.seen][-1] == pb.TASK_STATE_RUNNING
    assert node.when(healthy=True) == [0.0]


def test_one_question_at_a_time_however_slow_the_answers() -> None:
    node = Node(a_spec(readiness=a_probe("/r", interval=1)), r=between(5, 100))
    node.prober.takes = 2.5
    node.run(60)
    assert node.prober.most_at_once == 1


def test_a_delay_is_waited_for_once() -> None:
    node = Node(a_spec(readiness=a_probe("/r", delay=5)), r=well).run(30)
    assert 5 < node.prober.asked["/r"][0] < 5.1


def test_what_a_worker_before_has_seen_ready_stays_so_until_it_fails() -> None:
    spec = a_spec(
        startup=a_probe("/s"), readiness=a_probe("/r", interval=1), liveness=a_probe("/l")
    )
    node = Node(spec, s=well, r=between(0, 100), l=well).run(20, was_ready=True)
    assert "/s" not in node.prober.asked
    assert node.when(healthy=True) == [0.0]
    (left,) = node.when(healthy=False)
    assert 2.5 < left < 3.5


def test_a_command_is_run_inside_and_its_code_is_told() -> None:
    probe = pb.Probe(
        command=["exit", "3"], interval_seconds=1, timeout_seconds=1, failure_threshold=2
    )
    node = Node(a_spec(readiness=probe)).run(5)
    assert node.last.reason == "readiness check command exit 3: exited with code 3"
    slow = pb.Probe(
        command=["sleep", "60"], interval_seconds=1, timeout_seconds=1, failure_threshold=2
    )
    node = Node(a_spec(readiness=slow)).run(5)
    assert node.last.reason == "readiness check command sleep 60: did not end within 1 s"


def test_an_engine_that_is_away_makes_nobody_unready() -> None:
    probe = pb.Probe(
        command=["exit", "0"], interval_seconds=1, timeout_seconds=1, failure_threshold=1
    )
    node = Node(a_spec(readiness=probe, liveness=probe))

    async def away() -> None:
        run = asyncio.create_task(node.live(60))
        await asyncio.sleep(10)
        node.runtime.away = "the engine is away"
        node.runtime.lose_watchers()
        await run

    run_virtual(away())
    assert node.last.state == pb.TASK_STATE_RUNNING
    assert (node.last.healthy, node.last.reason) == (True, "the engine is away")


def test_the_last_lines_are_told_with_the_end() -> None:
    spec = a_spec()
    spec.command[:] = ["print", "one\n\x1b[31mtwo\x1b[0m\x07\n\n" + "x" * 900 + "\nlast"]
    node = Node(spec).run(5)
    assert node.last.state == pb.TASK_STATE_EXITED
    assert list(node.last.last_lines) == ["one", "two", "x" * 200, "last"]
