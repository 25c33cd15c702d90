"""Keeps the key-encryption keys on this master's disk as the state says, and, where this master leads,
makes a new one and wraps everything with it.

Rows and files say how far it is, so whoever leads goes on, and a restart needs no code of its own. A master
that has just started may have an older state than it had before: it deletes nothing until its state is
known to be as new as the others'.
"""

import asyncio
import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.app.folder import keep_keks
from orca_master.app.wrapped import Place, places, wrap_anew
from orca_master.cluster.masters.port import Membership
from orca_master.cluster.masters.registrar import Ask
from orca_master.cluster.model import MASTERS
from orca_master.cluster.wrapping import operations
from orca_master.errors import Forbidden, NotLeader, Refusal, Trouble
from orca_master.http.forward import Leading
from orca_master.identity.wrapping.keyring import KEK_BYTES, Keyring, WrappingKey
from orca_master.identity.wrapping.model import (
    KEY_HOLDINGS,
    WRAPPING,
    KeyHolding,
    Wrapping,
    WrappingStep,
    the_wrapping,
)
from orca_master.state.store import Store

LOOK_EVERY_SECONDS = 0.5
LEADER_SECONDS = 10.0
WRAPPED_AT_ONCE = 25
LOOKED_AT_ONCE = 100

NOT_KNOWN = "whether the key-encryption key was replaced is not known yet: ask again in a moment"
FETCHING = (
    "the key-encryption key was replaced while this master was away, and is fetched from the others: ask"
    " again in a moment"
)

log = get_logger("wrapping")


class WrappingKeeper:
    """Runs on every master. `me`: its id; `others`: addresses of the other masters, by name."""

    def __init__(
        self,
        env: Env,
        store: Store,
        keyring: Keyring,
        membership: Membership,
        leading: Leading,
        ask: Ask,
        *,
        folder: Path,
        others: Callable[[], Mapping[str, str]],
        me: str,
    ) -> None:
        self._env = env
        self._store = store
        self._keyring = keyring
        self._membership = membership
        self._leading = leading
        self._ask = ask
        self._folder = folder
        self._others = others
        self._me = me

    def judge(self) -> None:
        """Say what is to be thought of something that does not open: `Keyring.doubt`."""
        row = the_wrapping(self._store.state)
        if math.isinf(self._store.age):
            self._keyring.doubt = NOT_KNOWN
        elif row is None or self._keyring.is_given or not self._others():
            self._keyring.doubt = ""
        else:
            self._keyring.doubt = "" if self._lacks(row) == [] else FETCHING

    async def run(self) -> None:
        """Until cancelled."""
        with self._store.follow(WRAPPING, KEY_HOLDINGS, MASTERS) as follower:
            is_settled = False
            while True:
                await follower.next(None if is_settled else LOOK_EVERY_SECONDS)
                try:
                    is_settled = await self.step()
                except (Trouble, Refusal, OSError, ValueError, KeyError) as error:
                    is_settled = False
                    log.warning("the key-encryption key is not followed yet", reason=str(error))

    async def step(self) -> bool:
        """One look; whether there is nothing to wait for.

        Raises Trouble, Refusal, OSError; ValueError, KeyError for an answer that is none.
        """
        self.judge()
        if math.isinf(self._store.age):
            return False
        row = the_wrapping(self._store.state)
        if row is None:
            if len(self._keyring.keys) > 1:  # made for a change that was never written down
                self._keep(self._keyring.keys[:1])
            return True
        if self._keyring.is_given:
            await self._tell(row)
            if self._store.leadership.is_leader:
                await self._lead()
            return row.step is WrappingStep.DONE
        if self._store.leadership.is_leader and row.step is WrappingStep.HANDING:
            row = await self._made(row)
        if lacks := self._lacks(row):
            await self._fetch(row, lacks)
        needed = [key for id in row.needed if (key := self._keyring.find(id)) is not None]
        if len(needed) == len(row.needed) and row.needed != self._keyring.ids:
            self._keep(needed)
            log.info("the keys on this master's disk have changed", keys=self._keyring.ids)
        self.judge()
        await self._tell(row)
        if self._store.leadership.is_leader:
            await self._lead()
        row = the_wrapping(self._store.state)
        return row is None or (row.step is WrappingStep.DONE and not self._lacks(row))

    def _lacks(self, row: Wrapping) -> list[str]:
        return [id for id in row.needed if self._keyring.find(id) is None]

    def _keep(self, keys: Sequence[WrappingKey]) -> None:
        """On the disk first. Raises OSError."""
        keep_keks(self._folder, [key.raw for key in keys])
        self._keyring.keep(keys)

    async def _made(self, row: Wrapping) -> Wrapping:
        """As leader: a key to hand out, unless this master has it. One that the leader before has made and
        that is only with others has wrapped nothing; another one takes its place."""
        if row.coming and self._keyring.find(row.coming) is not None:
            return row
        current = self._keyring.find(row.current)
        if current is None:
            return row
        made = WrappingKey(self._env.random.token_bytes(KEK_BYTES))
        self._keep([current, made])
        await self._store.update(partial(operations.made, id=made.id))
        return the_wrapping(self._store.state) or row

    async def _fetch(self, row: Wrapping, lacks: Sequence[str]) -> None:
        """From whichever master has it, over mutual TLS. Raises OSError, ValueError, KeyError."""
        for name, address in self._others().items():
            try:
                status, answer = await self._ask(address, "GET", "/internal/v1/keys", b"")
            except Trouble as error:
                log.info("a master was not asked for its keys", name=name, reason=error.message)
                continue
            if status != 200:
                continue
            given = [WrappingKey(base64.b64decode(each)) for each in json.loads(answer)["keys"]]
            found = {key.id: key for key in (*given, *self._keyring.keys)}
            if all(id in found for id in lacks):
                self._keep([found[id] for id in row.needed])
                log.info("keys were fetched", source=name, keys=self._keyring.ids)
                return

    async def _tell(self, row: Wrapping) -> None:
        """Raises Trouble, Refusal."""
        holding = KeyHolding(self._me, self._keyring.ids, self._keyring.is_given)
        if self._store.state.get(KEY_HOLDINGS, self._me) == holding:
            return
        address = await self._leading.leader(LEADER_SECONDS)
        if address is None:
            await self._store.update(partial(operations.hold, holding=holding))
            return
        body = json.dumps({"keys": holding.keys, "is_given": holding.is_given}).encode()
        path = f"/internal/v1/wrapping-key/{self._me}"
        status, answer = await self._ask(address, "PUT", path, body)
        if status == 403:
            raise Forbidden(str(json.loads(answer).get("error")))
        if status != 200:
            raise NotLeader(f"the leader answered {status}: {answer[:200]!r}")

    async def _lead(self) -> None:
        """The next step, if it can be taken. Raises Trouble, Refusal."""
        state = self._store.state
        row = the_wrapping(state)
        if row is None:
            return
        if row.step is WrappingStep.HANDING:
            await self._hand_out(row)
        elif row.step is WrappingStep.WRAPPING:
            await self._wrap_all(row)

    async def _hand_out(self, row: Wrapping) -> None:
        state = self._store.state
        given = [each for each in state.scan(KEY_HOLDINGS) if each.is_given]
        for each in given:
            if (master := state.get(MASTERS, each.master)) is not None:
                why, now = operations.given_elsewhere(master.name), self._env.now()
                await self._store.update(partial(operations.give_up, why=why, now=now))
                log.warning("the key-encryption key is not replaced", reason=why)
                return
        members = self._membership.members()
        if operations.may_wrap(state, members):
            switch = partial(operations.switch, coming=row.coming, now=self._env.now())
            if await self._store.update(switch):
                log.info("another key-encryption key wraps from now on", key=row.coming)

    async def _wrap_all(self, row: Wrapping) -> None:
        """What the previous key has wrapped. Since the new one wraps, nothing is added to it."""
        old, new = self._keyring.find(row.previous), self._keyring.find(row.current)
        if old is None or new is None:
            return
        for batch in _batches(await self._left(old), WRAPPED_AT_ONCE):
            anew = partial(wrap_anew, env=self._env, those=batch, old=old, new=new)
            await self._store.update(anew)
        if not await self._left(old):
            finish = partial(operations.finish, current=row.current, now=self._env.now())
            await self._store.update(finish)
            log.info("the key-encryption key was replaced", key=row.current)

    async def _left(self, old: WrappingKey) -> list[Place]:
        found = []
        for number, place in enumerate(places(self._store.state, old)):
            if place is not None:
                found.append(place)
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found


def _batches(those: Sequence[Place], size: int) -> list[Sequence[Place]]:
    return [those[first : first + size] for first in range(0, len(those), size)]
