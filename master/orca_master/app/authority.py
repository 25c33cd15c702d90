"""Keeps what this master trusts and shows as the state says, and tells the leader of it.

A master that has just started may have an older state than it had before: it changes nothing until its
state is known to be as new as the others'.
"""

import asyncio
import json
import math

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.app.credentials import Credentials
from orca_master.app.keys import Keys
from orca_master.cluster.authority.model import HOLDINGS, ROTATIONS, Holding
from orca_master.cluster.authority.operations import hold, the_rotation, trusted
from orca_master.cluster.masters.registrar import Ask
from orca_master.cluster.model import AUTHORITY
from orca_master.errors import Forbidden, NotLeader, NotReady, Trouble
from orca_master.http.forward import Leading
from orca_master.state.store import Store
from orca_proto.identity import NodeRole
from orca_proto.trust import fingerprints

LOOK_EVERY_SECONDS = 1.0
RENEW_LOOK_SECONDS = 3600.0
RENEW_AGAIN_SECONDS = 1.0
LEADER_SECONDS = 10.0

log = get_logger("authority")


class Holdings:
    """Tells whoever leads what masters and workers trust and show, while a rotation goes on."""

    def __init__(self, store: Store, leading: Leading, ask: Ask) -> None:
        self._store = store
        self._leading = leading
        self._ask = ask

    async def tell(self, holding: Holding) -> None:
        """Raises Trouble, Forbidden."""
        state = self._store.state
        if the_rotation(state) is None:
            return
        if state.get(HOLDINGS, holding.role, holding.id) == holding:
            return
        address = await self._leading.leader(LEADER_SECONDS)
        if address is None:
            await self._store.update(lambda tx: hold(tx, holding))
            return
        body = json.dumps({"trusts": holding.trusts, "shows": holding.shows}).encode()
        path = f"/internal/v1/authority/{holding.role}/{holding.id}"
        status, answer = await self._ask(address, "PUT", path, body)
        if status == 403:
            raise Forbidden(str(json.loads(answer).get("error")))
        if status != 200:
            raise NotLeader(f"the leader answered {status}: {answer[:200]!r}")


class AuthorityKeeper:
    """Runs on every master. `me`: its id."""

    def __init__(
        self,
        env: Env,
        store: Store,
        credentials: Credentials,
        keys: Keys,
        holdings: Holdings,
        *,
        me: str,
    ) -> None:
        self._env = env
        self._store = store
        self._credentials = credentials
        self._keys = keys
        self._holdings = holdings
        self._me = me

    async def run(self) -> None:
        """Follow the state, and tell the leader, until cancelled. Raises WrongKey."""
        with self._store.follow(AUTHORITY, ROTATIONS) as follower:
            settled = False
            while True:
                await follower.next(None if settled else LOOK_EVERY_SECONDS)
                try:
                    settled = self._follow()
                    if the_rotation(self._store.state) is not None:
                        await self._tell()
                        settled = False  # what was told may have been lost with the leader
                except (Trouble, Forbidden, OSError) as error:
                    settled = False
                    log.warning("the authority is not followed yet", reason=str(error))

    def _follow(self) -> bool:
        """Trust and show what the state says, if that is known; whether it is.

        Raises NotReady, WrongKey, OSError.
        """
        if math.isinf(self._store.age):
            return False
        wanted = trusted(self._store.state)
        if fingerprints(wanted) != self._credentials.trusts():
            self._credentials.trust(wanted)
            log.info("whom this master trusts has changed", authorities=fingerprints(wanted))
        signer = self._keys.signer()
        if self._credentials.shows() != signer.fingerprint.hex():
            self._credentials.renew(signer)
            log.info("this master has a certificate of the authority that signs now")
        return True

    async def _tell(self) -> None:
        trusts, shows = self._credentials.trusts(), self._credentials.shows()
        if shows:
            await self._holdings.tell(Holding(NodeRole.MASTER, self._me, trusts, shows))

    async def stay_certified(self) -> None:
        """Renew the certificate at two thirds of its life, until cancelled. What cannot be renewed now
        is tried again while the rest is left. Raises WrongKey."""
        while True:
            due = self._credentials.renew_at() - self._env.now()
            if due > 0:
                await asyncio.sleep(min(RENEW_LOOK_SECONDS, due))
                continue
            try:
                self._renew()
                log.info("this master's certificate was renewed")
            except (NotReady, OSError) as error:
                log.warning("the certificate is not renewed yet", reason=str(error))
                await asyncio.sleep(RENEW_AGAIN_SECONDS)

    def _renew(self) -> None:
        """Raises NotReady, WrongKey, OSError."""
        if math.isinf(self._store.age) and not self._credentials.has_expired():
            raise NotReady("whether another authority signs by now is not known")
        self._credentials.renew(self._keys.signer())
