"""When a probe asks next, and what its answers add up to. Pure: the time comes in."""

import shlex
from dataclasses import dataclass
from enum import StrEnum

from orca_proto import worker_pb2 as pb

EARLY_SECONDS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Waits before the first answers, until it passes; then the probe's own interval."""
CLOSE_SECONDS = 0.2
CLOSE_SHARE = 0.1
"""What asks over the network is cheap: it waits no longer than this, or than this share of the time that the
start has taken. A command is a process inside the container, at a hundred times the cost."""
MOST_TEXT = 200


class Kind(StrEnum):
    """`startup`: the others wait for it. `readiness`: whether it is in service. `liveness`: whether it may
    go on. A startup or liveness probe that has failed ends the task."""

    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


@dataclass(slots=True)
class Check:
    """One probe of one task. Times are seconds of one monotonic clock; `began_at`: when it began to count.

    Until it has passed for the first time it is `early`: it asks often, and its failures are counted by
    the time, one for each interval. Liveness is never early: it is about what was well already.
    """

    kind: Kind
    probe: pb.Probe
    began_at: float
    early: bool = True
    is_passing: bool = False
    asked: int = 0
    successes: int = 0
    failures: int = 0
    failure: str = ""
    answered_at: float = 0.0

    @property
    def has_failed(self) -> bool:
        return self.failures >= max(1, self.probe.failure_threshold)

    @property
    def wait_seconds(self) -> float:
        """From the last answer to the next question."""
        interval = self.probe.interval_seconds
        if not self.early:
            return interval
        wait = EARLY_SECONDS[min(self.asked, len(EARLY_SECONDS) - 1)]
        if not self.probe.command:
            wait = min(wait, max(CLOSE_SECONDS, CLOSE_SHARE * (self.answered_at - self.began_at)))
        return min(interval, wait)

    def take(self, failure: str | None, now: float) -> None:
        """One answer: None, or what was wrong."""
        self.asked, self.answered_at = self.asked + 1, now
        if failure is None:
            self.successes, self.failures, self.failure = self.successes + 1, 0, ""
            if self.successes >= self.probe.success_threshold:
                self.is_passing, self.early = True, False
            return
        self.successes, self.failure = 0, failure[:MOST_TEXT]
        if self.early:
            self.failures = int((now - self.began_at) / max(self.probe.interval_seconds, 0.001))
        else:
            self.failures = min(self.failures + 1, max(1, self.probe.failure_threshold))
        if self.has_failed:
            self.is_passing = False

    @property
    def complaint(self) -> str:
        """What is wrong, in words; empty: nothing was at the last answer."""
        if not self.failure:
            return ""
        count = ""
        if not self.early:
            count = f" ({self.failures} of {self.probe.failure_threshold})"
        elif self.has_failed and self.kind is Kind.STARTUP:
            count = f" (for {self.probe.failure_threshold * self.probe.interval_seconds:g} s)"
        return f"{self.kind} check {what(self.probe)}: {self.failure}{count}"

    @property
    def result(self) -> str:
        """The last answer, in words; empty: there was none yet."""
        if not self.asked:
            return ""
        return self.complaint or f"{self.kind} check {what(self.probe)}: passed"


def what(probe: pb.Probe) -> str:
    """What a probe asks, in a word or two."""
    if probe.command:
        return f"command {shlex.join(probe.command)}"[:MOST_TEXT]
    if probe.tcp:
        return f"tcp {probe.port}"
    if probe.grpc:
        return f"grpc {probe.service}".rstrip()
    return f"http {probe.path}"[:MOST_TEXT]
