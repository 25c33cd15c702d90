"""The cluster's authority and first rows, and who a request's token belongs to."""

from orca_master.app.core import MasterCore
from orca_master.app.folder import Folder
from orca_master.cluster import pki
from orca_master.cluster.authority.operations import the_authority
from orca_master.cluster.masters.operations import found_master
from orca_master.cluster.model import AUTHORITY, CLUSTER, NODES, Authority, Master
from orca_master.errors import Forbidden, NotReady, Unauthenticated
from orca_master.identity.callers import Callers
from orca_master.identity.model import Principal, Role
from orca_master.identity.operations import create_token
from orca_master.state.transaction import Transaction

NO_STATE = "this master does not have the cluster's state yet: it has to reach the other masters"


class Keys:
    """The authority that signs, opened once its row has come, and again when another one signs."""

    def __init__(self, core: MasterCore, folder: Folder, *, leaf_seconds: float) -> None:
        self._core = core
        self._folder = folder
        self._leaf_seconds = leaf_seconds
        self._opened: tuple[Authority, pki.Signer] | None = None
        self._callers = Callers()

    @property
    def are_known(self) -> bool:
        return self._core.store.state.get(AUTHORITY, "ca") is not None

    def signer(self) -> pki.Signer:
        """Raises NotReady, WrongKey."""
        authority = the_authority(self._core.store.state)
        if self._opened is None or self._opened[0] != authority:
            signer = pki.open_authority(
                authority,
                self._folder.cluster_id,
                self._core.keyring,
                leaf_seconds=self._leaf_seconds,
            )
            self._opened = authority, signer
        return self._opened[1]

    def certified(self, node_id: str, request: bytes) -> bytes:
        """A new certificate (PEM) for a node that is known, from its request (PKCS #10, DER).

        Raises Invalid, Forbidden, NotReady, WrongKey.
        """
        if self._core.store.state.get(NODES, node_id) is None:
            raise Forbidden("this node was removed from the cluster")
        return pki.issue_worker(self._core.env, self.signer(), pki.read_request(request), node_id)

    def authenticated(self, authorization: str | None) -> Principal:
        """Raises Unauthenticated; NotReady while nobody's token can be known."""
        state = self._core.store.state
        try:
            return self._callers.authenticate(state, authorization, now=self._core.env.now())
        except Unauthenticated:
            if state.get(CLUSTER, "cluster") is None:
                raise NotReady(NO_STATE) from None
            raise


async def found(core: MasterCore, folder: Folder, me: Master, *, cluster_name: str) -> None:
    """The first rows of a new cluster: itself, this master, the authority, the first admin token.

    Once only: a token that was revoked since does not come back with a restart.
    """
    await core.found(cluster_id=folder.cluster_id, cluster_name=cluster_name)
    if core.store.state.get(AUTHORITY, "ca") is not None:
        return
    kek = core.keyring.current(core.store.state)
    made: Authority = pki.create_authority(core.env, folder.cluster_id, kek)

    def bootstrap(tx: Transaction) -> None:
        now = core.env.now()
        found_master(tx, Master(id=me.id, name=me.name, joined_at=now, schema=me.schema))
        if folder.admin_token is not None:
            create_token(
                tx,
                id=core.env.new_id(),
                name="admin",
                role=Role.ADMIN,
                secret=folder.admin_token,
                now=now,
            )
        tx.put(AUTHORITY, made)

    await core.store.update(bootstrap)
