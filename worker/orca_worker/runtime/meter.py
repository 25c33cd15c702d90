"""From processor time used so far to processors in use: the difference between two looks."""

from orca_common.env import Env
from orca_proto.worker_pb2 import Resources
from orca_worker.runtime.cgroups import Usage


class Meter:
    """Turns a growing `Usage` per task into `Resources`; the first look knows memory only."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._seen_at = 0.0
        self._seen: dict[str, float] = {}

    def read(self, usages: dict[str, Usage]) -> Resources:
        """What is used now by these together, the processors averaged since the last look."""
        now = self._env.monotonic()
        elapsed = now - self._seen_at
        spent = sum(
            max(0.0, usage.cpu_seconds - self._seen[key])
            for key, usage in usages.items()
            if key in self._seen
        )
        self._seen_at = now
        self._seen = {key: usage.cpu_seconds for key, usage in usages.items()}
        return Resources(
            memory_bytes=sum(usage.memory_bytes for usage in usages.values()),
            cpu_millis=round(spent / elapsed * 1000) if elapsed > 0 else 0,
        )
