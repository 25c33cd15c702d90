"""Orders certificates by ACME, renews them, and forgets those that nobody needs. On the leader only.

One order at a time for a domain; its row says that it is under way. A leader that finds such a row begins
anew: the key that was made for it has gone with its leader.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import Invalid, NotReady, Trouble
from orca_master.ingress.certificates import operations, ordering
from orca_master.ingress.certificates.authority import Account, Open, Refused, Session
from orca_master.ingress.certificates.keys import Keys
from orca_master.ingress.certificates.model import ACME, CERTIFICATES, ORDERS, Acme
from orca_master.ingress.certificates.ordering import Wanted
from orca_master.ingress.certificates.reading import Read, covers, read
from orca_master.services.model import SERVICES
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

MOST_AT_ONCE = 4
NODES_SECONDS = 10.0
"""Until every node that serves answers the challenge; then the authority is asked to look anyway."""
NODES_LOOK_SECONDS = 0.05
PROOF_SECONDS = 180.0
POLL_SECONDS = 1.0
LOOK_SECONDS = 1.0
MOST_LOOK_SECONDS = 3600.0

T = TypeVar("T")

log = get_logger("certificates")


class Entrances(Protocol):
    """The nodes that serve."""

    def behind(self, version: int) -> list[str]:
        """Ids of those that do not serve this version of the state yet."""
        ...


class CertificateController:
    """Holds no truth, but for which orders are its own."""

    def __init__(
        self, env: Env, store: Store, keys: Keys, entrances: Entrances, open_session: Open
    ) -> None:
        self._env = env
        self._store = store
        self._keys = keys
        self._entrances = entrances
        self._open = open_session
        self._own: set[tuple[str, str]] = set()
        self._registering = asyncio.Lock()

    async def run(self) -> None:
        self._own.clear()
        with self._store.follow(SERVICES, CERTIFICATES, ACME, ORDERS) as follower:
            async with asyncio.TaskGroup() as group:
                while True:
                    await follower.next(self._seconds_to_next_look())
                    await self._forget()
                    for each in self._due():
                        self._own.add(each.key)
                        group.create_task(self._order(each))

    def _due(self) -> list[Wanted]:
        now = self._env.now()
        due = [
            each
            for each in ordering.wanted(self._store.state)
            if each.at <= now and each.key not in self._own
        ]
        due.sort(key=lambda each: (each.at, each.key))
        return due[: MOST_AT_ONCE - len(self._own)]

    def _seconds_to_next_look(self) -> float | None:
        """None: when something changes."""
        state, now = self._store.state, self._env.now()
        if self._own:
            return LOOK_SECONDS
        ahead = min((each.at for each in ordering.wanted(state)), default=float("inf"))
        ahead = min(ahead, ordering.next_forgetting(state, now))
        return None if ahead == float("inf") else min(MOST_LOOK_SECONDS, max(0.0, ahead - now))

    async def _forget(self) -> None:
        certificates, orders = ordering.forgotten(self._store.state, self._env.now())
        if certificates or orders:
            await self._store.tend(
                partial(operations.forget, certificates=certificates, orders=orders)
            )

    async def _order(self, wanted: Wanted) -> None:
        """From beginning to end; whatever goes wrong is kept with the order. Raises Trouble."""
        try:
            await self._carry_out(wanted)
        except Refused as refused:
            await self._fail(wanted, refused)
        except NotReady as error:
            await self._fail(wanted, Refused(error.message))
        except Trouble:
            raise
        except TimeoutError:
            late = Refused(f"the authority has not decided within {PROOF_SECONDS:.0f} s")
            await self._fail(wanted, late)
        except Exception as error:
            log.error("an order failed", domain=wanted.domain, exc_info=error)
            await self._fail(wanted, Refused(f"a fault of this master: {error!r}"))
        finally:
            self._own.discard(wanted.key)

    async def _fail(self, wanted: Wanted, refused: Refused) -> None:
        now = self._env.now()
        tries_at = await self._store.update(
            partial(operations.fail, wanted=wanted, refused=refused, now=now)
        )
        log.warning(
            "no certificate",
            domain=wanted.domain,
            reason=ordering.printable(refused.reason),
            retry_seconds=round(tries_at - now),
        )

    async def _carry_out(self, wanted: Wanted) -> None:
        """Raises Refused, NotReady, Trouble, TimeoutError."""
        now = self._env.now()
        await self._store.update(partial(operations.begin, wanted=wanted, now=now))
        async with self._registering:
            setting = await self._registered(wanted.tenant)
        if setting is None:
            return
        session = await self._session(setting)
        try:
            async with asyncio.timeout(PROOF_SECONDS + NODES_SECONDS):
                told = await self._fetch(wanted, session)
        finally:
            session.close()
        name = await self._store.update(
            lambda tx: operations.keep(tx, self._keys, wanted, told, now=self._env.now())
        )
        if name is not None:
            log.info("a certificate came", name=name, domain=wanted.domain, issuer=told.issuer)

    async def _registered(self, tenant: str) -> Acme | None:
        """The setting with its account. None: it is off."""
        setting = self._store.state.get(ACME, tenant)
        if setting is None or (setting.account and setting.told == setting.email):
            return setting
        session = await self._session(setting)
        try:
            url = await self._run(partial(session.register, setting.email))
        finally:
            session.close()
        await self._store.update(partial(operations.registered, setting=setting, url=url))
        return self._store.state.get(ACME, tenant)

    async def _session(self, setting: Acme) -> Session:
        account = Account(
            directory=setting.directory,
            key=self._keys.open_account(setting),
            url=setting.account,
            ca=setting.ca,
        )
        return await self._run(partial(self._open, account))

    async def _fetch(self, wanted: Wanted, session: Session) -> Read:
        """A certificate for a key that is made here."""
        key = await self._run(_new_key)
        challenge = await self._run(partial(session.begin, wanted.domain, key))
        if challenge is not None:

            def answer(tx: Transaction) -> int:
                return operations.answer(tx, wanted, challenge)

            await self._until_told(await self._store.update(answer))
            await self._run(session.answer)
            await self._until(session.is_proved)
        await self._run(session.finalize)
        chain = await self._until(session.chain)
        try:
            told = read(chain, key.decode(), self._env.now())
        except Invalid as error:
            raise Refused(
                f"the authority sent a certificate that cannot be used: {error}"
            ) from error
        if not covers(wanted.domain, told.domains):
            raise Refused(f"the authority sent a certificate for {', '.join(told.domains)}")
        return told

    async def _until_told(self, version: int) -> None:
        until = self._env.monotonic() + NODES_SECONDS
        while True:
            if not self._entrances.behind(version) or self._env.monotonic() >= until:
                return
            await asyncio.sleep(NODES_LOOK_SECONDS)

    async def _until(self, ask: Callable[[], T | None]) -> T:
        """Ask again and again, until there is something; whoever calls bounds it."""
        while True:
            if found := await self._run(ask):
                return found
            await asyncio.sleep(POLL_SECONDS)

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._env.threads.run(work)


def _new_key() -> bytes:
    """P-256, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
