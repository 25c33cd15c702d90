"""Each master tells the cluster where it is reached and what it is, at its start and when that changes."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from orca_common.logs import get_logger
from orca_master.cluster.masters.operations import register, with_history
from orca_master.cluster.model import MASTERS, Master
from orca_master.errors import Forbidden, NotLeader, Trouble
from orca_master.http.forward import Leading
from orca_master.state.store import Store

AGAIN_SECONDS = 1.0
LEADER_SECONDS = 10.0

Ask = Callable[[str, str, str, bytes], Awaitable[tuple[int, bytes]]]
"""(address, method, path, body) → (status, body); see `http.forward.Forwarder.ask`."""

log = get_logger("masters")


class Registrar:
    """`me`: this master's row as it should be; its name and its joining are the cluster's to say."""

    def __init__(self, store: Store, leading: Leading, ask: Ask, me: Master) -> None:
        self._store = store
        self._leading = leading
        self._ask = ask
        self._me = me

    async def run(self) -> None:
        with self._store.follow(MASTERS) as follower:
            while True:
                await follower.next(AGAIN_SECONDS)
                if self._is_known():
                    continue
                try:
                    await self._tell()
                except (Trouble, Forbidden) as error:
                    log.warning("not registered yet", reason=error.message)
                    await asyncio.sleep(AGAIN_SECONDS)

    def _is_known(self) -> bool:
        row = self._store.state.get(MASTERS, self._me.id)
        if row is None:
            return False
        return row == with_history(self._me, row)

    async def _tell(self) -> None:
        address = await self._leading.leader(LEADER_SECONDS)
        if address is None:
            await self._store.update(lambda tx: register(tx, self._me))
            return
        me = self._me
        body = {
            "peers": me.peers,
            "api": me.api,
            "workers": me.workers,
            "version": me.version,
            "schema_version": me.schema,
        }
        path = f"/internal/v1/masters/{me.id}"
        status, answer = await self._ask(address, "PUT", path, json.dumps(body).encode())
        if status == 403:
            raise Forbidden(str(json.loads(answer).get("error")))
        if status != 200:
            raise NotLeader(f"the leader answered {status}: {answer[:200]!r}")
