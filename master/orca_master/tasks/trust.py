"""What workers are told of the cluster's authority, and which of their certificates are taken."""

import asyncio
from collections.abc import Awaitable, Callable

from cryptography import x509

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.cluster.authority.model import HOLDINGS, ROTATIONS, Holding
from orca_master.cluster.authority.operations import the_authority, the_rotation, trusted
from orca_master.cluster.authority.rotation import has_done
from orca_master.cluster.model import AUTHORITY, NODES
from orca_master.errors import Forbidden, NotReady, Trouble
from orca_master.state.store import Store
from orca_proto import worker_pb2 as pb
from orca_proto.identity import NodeRole
from orca_proto.trust import fingerprint, fingerprints, issuer

AGAIN_SECONDS = 5.0
"""Who was told and has not answered is told again, while a rotation goes on."""
RENEWALS_PER_SECOND = 50.0
MOST_TEXTS = 10

log = get_logger("gateway")


class WorkersTrust:
    """`tell` brings what a worker says to the leader; it raises Trouble, Forbidden."""

    def __init__(self, env: Env, store: Store, tell: Callable[[Holding], Awaitable[None]]) -> None:
        self._env = env
        self._store = store
        self._tell = tell

    def recognized(self) -> bytes:
        """Whose certificates the TLS of the workers' port takes, PEM: besides those that are trusted
        the one that was replaced, so that `check` can say why it is not. Raises NotReady."""
        state = self._store.state
        return trusted(state) + the_authority(state).previous

    def check(self, pem: bytes) -> str:
        """The fingerprint of the authority that has issued this certificate. Raises Forbidden,
        NotReady."""
        state = self._store.state
        found = issuer(
            x509.load_pem_x509_certificate(pem), x509.load_pem_x509_certificates(trusted(state))
        )
        if found is None:
            raise Forbidden(
                "this node's certificate is of an authority that was replaced while it was away: make"
                " a token with `orca nodes token` and start this worker with it (--join), in its old"
                " folder; it stays the node that it was"
            )
        return fingerprint(found)

    def is_trusted(self, authority: str) -> bool:
        """By its fingerprint."""
        return authority in fingerprints(trusted(self._store.state))

    async def until_dropped(self, authority: str) -> None:
        """Until its certificates are trusted no more; a little later, so that not all who have to
        connect again do so at once."""
        with self._store.follow(AUTHORITY, ROTATIONS) as follower:
            while self.is_trusted(authority):
                await follower.next()
        within = self._store.state.count(NODES) / RENEWALS_PER_SECOND
        await asyncio.sleep(self._env.random.uniform(0.0, within))

    async def keep_telling(
        self, node_id: str, send: Callable[[pb.FromMaster], Awaitable[None]]
    ) -> None:
        """Tell one worker whom to trust, whenever that changes, until cancelled.

        Raises ConnectionError.
        """
        told: pb.Trust | None = None
        with self._store.follow(AUTHORITY, ROTATIONS) as follower:
            while True:
                await follower.next(AGAIN_SECONDS if self._is_missing(node_id) else None)
                try:
                    wanted = self._wanted()
                except NotReady:
                    continue
                if wanted is not None and (wanted != told or self._is_missing(node_id)):
                    await send(pb.FromMaster(trust=wanted))
                    told = wanted

    def _is_missing(self, node_id: str) -> bool:
        state = self._store.state
        rotation = the_rotation(state)
        if rotation is None:
            return False
        holding = state.get(HOLDINGS, str(NodeRole.WORKER), node_id)
        return holding is None or not has_done(rotation, holding)

    def _wanted(self) -> pb.Trust | None:
        """None: the authority is the first one, and the workers have it since they joined."""
        state = self._store.state
        authority = the_authority(state)
        if the_rotation(state) is None and not authority.previous:
            return None
        return pb.Trust(
            authorities=trusted(state),
            signs=fingerprints(authority.certificate)[0],
            within_seconds=state.count(NODES) / RENEWALS_PER_SECOND,
        )

    async def heard(self, node_id: str, said: pb.Trusted) -> None:
        """A worker says what it has. What cannot be brought on now, it is asked for again."""
        texts = [*said.authorities, said.shows]
        if len(texts) > MOST_TEXTS or any(not _is_fingerprint(text) for text in texts):
            log.warning("a worker says of its authorities what cannot be", id=node_id)
            return
        trusts = tuple(sorted(set(said.authorities)))
        try:
            await self._tell(Holding(str(NodeRole.WORKER), node_id, trusts, said.shows))
        except (Trouble, Forbidden) as error:
            log.info("what a worker trusts is not noted yet", id=node_id, reason=error.message)


def _is_fingerprint(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")
