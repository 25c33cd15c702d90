"""Clients of real masters that read and write registers over the API, and what must be true of that.

A register is a service in a project of its own; its value is the number in its command. A write is
sent again under its Idempotency-Key, to any master, until it is acknowledged: so every write is done
in the end, and a write that was done twice shows in the service's revision.
"""

import asyncio
import itertools
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import aiohttp

from sim.raft.linearizability import Operation, is_linearizable

ANSWER_SECONDS = 4.0
REGISTERS = 6
OPERATIONS_EACH = 120
AGAIN = frozenset({503, 504, 507})
"""Nobody leads, nobody knows, or a disk is full: asking again is safe."""


class Violation(AssertionError):
    """A promise of the cluster was broken."""


class Registers:
    """`apis`: of all masters. Keep `run` running in several tasks; then `stop`, `check`."""

    def __init__(self, apis: Sequence[str], token: str, seed: int) -> None:
        self._apis = list(apis)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._seed = seed
        self._values = itertools.count(1)
        self._stop = asyncio.Event()
        self.operations: dict[str, list[Operation]] = defaultdict(list)
        self.writes: dict[str, int] = defaultdict(int)
        self.acknowledged = 0
        self.last_write_at = time.monotonic()

    def stop(self) -> None:
        """Everybody ends what he has begun; the cluster must be healed."""
        self._stop.set()

    async def run(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as http:
            while not self._stop.is_set():
                register = self._register(chance)
                if chance.random() < 0.6:
                    await self._write(http, register, chance)
                else:
                    await self._read(http, register, chance)

    def _register(self, chance: random.Random) -> str:
        """Few at a time, so that operations meet; after so many operations the next few."""
        done = sum(map(len, self.operations.values()))
        generation = done // (REGISTERS * OPERATIONS_EACH)
        return f"r{generation}-{chance.randrange(REGISTERS)}"

    async def _write(self, http: aiohttp.ClientSession, name: str, chance: random.Random) -> None:
        value, key, called = next(self._values), uuid.uuid4().hex, time.monotonic()
        self.writes[name] += 1
        body = {"services": [a_register(name, value)]}
        while True:
            api = chance.choice(self._apis)
            try:
                async with http.post(
                    f"{api}/api/v1/deploy?wait=false", json=body, headers={"Idempotency-Key": key}
                ) as answer:
                    if answer.status == 202:
                        break
                    if answer.status not in AGAIN:
                        raise Violation(f"a write: {answer.status} {await answer.text()}")
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(0.02)
        self.last_write_at = time.monotonic()
        self.acknowledged += 1
        self.operations[name].append(Operation(called, self.last_write_at, "write", value))

    async def _read(self, http: aiohttp.ClientSession, name: str, chance: random.Random) -> None:
        """One that was not answered said nothing."""
        called, api = time.monotonic(), chance.choice(self._apis)
        try:
            async with http.get(f"{api}/api/v1/status?project={name}") as answer:
                if answer.status != 200:
                    if answer.status not in AGAIN:
                        raise Violation(f"a read: {answer.status} {await answer.text()}")
                    return
                services = (await answer.json())["services"]
        except (aiohttp.ClientError, OSError, TimeoutError):
            await asyncio.sleep(0.02)
            return
        value = value_of(services[0]) if services else None
        self.operations[name].append(Operation(called, time.monotonic(), "read", answer=value))

    def check(self, services: Sequence[dict[str, Any]]) -> None:
        """`services`: the state at the end, the same on all masters. Raises Violation."""
        known = {service["name"]: service for service in services}
        now = time.monotonic()
        for name, operations in self.operations.items():
            found = known.get(name)
            writes = self.writes[name]
            if found is None:
                if writes:
                    raise Violation(f"{name} is lost")
                continue
            if found["revision"] != writes:
                raise Violation(f"{name}: {writes} writes made {found['revision']} revisions")
            last = Operation(now, now, "read", answer=value_of(found))
            if not is_linearizable([*operations, last]):
                raise Violation(f"{name} is not linearizable: {operations}")


def a_register(name: str, value: int) -> dict[str, Any]:
    return {"name": name, "project": name, "command": ["true", str(value)], "replicas": 0}


def value_of(service: dict[str, Any]) -> int:
    return int(service["command"][1])
