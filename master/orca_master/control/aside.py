"""Objects that a controller failed on: put aside with a growing wait, so that the rest goes on."""

from dataclasses import dataclass

from orca_common.env import Env
from orca_common.logs import get_logger

FIRST_WAIT_SECONDS = 1.0
MOST_WAIT_SECONDS = 60.0

log = get_logger("control")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an object is aside, how often it failed in a row, and until when (Unix seconds)."""

    error: str
    times: int
    until: float


class Aside:
    """One per controller."""

    def __init__(self, env: Env, kind: str) -> None:
        self._env = env
        self._kind = kind
        self.failures: dict[str, Failure] = {}

    def failed(self, name: str, error: Exception) -> float:
        """Put it aside; returns until when."""
        before = self.failures.get(name)
        times = before.times + 1 if before else 1
        wait = min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(times - 1, 16))
        until = self._env.now() + wait
        self.failures[name] = Failure(repr(error), times, until)
        log.error(
            "could not be reconciled; put aside",
            kind=self._kind,
            name=name,
            retry_seconds=wait,
            exc_info=error,
        )
        return until

    def succeeded(self, name: str) -> None:
        self.failures.pop(name, None)

    def reasons(self) -> list[str]:
        """What is aside and why, for people."""
        return [
            f"{self._kind} {name} is put aside after {failure.times} failures: {failure.error}"
            for name, failure in sorted(self.failures.items())
        ]

    def is_aside(self, name: str) -> bool:
        failure = self.failures.get(name)
        return failure is not None and self._env.now() < failure.until
