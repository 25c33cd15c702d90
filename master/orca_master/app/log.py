"""Which log a master stands on, and how it is put together from its folder and its certificates."""

import asyncio

from orca_common.env import Env
from orca_master.app.credentials import Credentials
from orca_master.app.folder import Folder
from orca_master.http.port import NotAllowedHere
from orca_master.state.growing import GrowingLog
from orca_master.state.log import Machine
from orca_master.state.raft.convert import retire
from orca_master.state.raft.founding import found
from orca_master.state.raft.log import RaftLog
from orca_master.state.raft.transport import TlsNetwork
from orca_master.state.solo.log import SoloLog
from orca_proto.identity import NotABearer

RAFT_ALPN = "orca-raft"


class Backing:
    """`log`, and what takes connections from other masters' logs."""

    def __init__(self, env: Env, folder: Folder, credentials: Credentials, *, peers: str) -> None:
        self._env = env
        self._folder = folder
        self._credentials = credentials
        self._peers = peers
        self._network: TlsNetwork | None = None
        if folder.is_raft:
            self.log = GrowingLog(env, raft=self._raft())
        else:
            self.log = GrowingLog(env, solo=self._solo, convert=self._convert)

    def accept(self) -> asyncio.BaseProtocol:
        """What speaks on a connection of another master's log. Raises NotAllowedHere."""
        if self._network is None:
            raise NotAllowedHere("this master has no others yet")
        return self._network.accept()

    async def prepare(self) -> None:
        """Remove what a conversion that was cut short has left. Raises DamagedLog, OSError."""
        if self._folder.is_raft and self._env.disk.exists(self._folder.raft_log):
            self._retire_solo()

    async def _convert(self, machine: Machine, *, term: int) -> RaftLog:
        await found(
            self._env,
            self._folder.raft_log,
            cluster_id=self._folder.cluster_id,
            node=self._folder.master_id,
            address=self._peers,
            capture=machine.capture(),
            first_term=term,
        )
        self._retire_solo()
        return self._raft()

    def _retire_solo(self) -> None:
        retire(
            self._env,
            self._folder.solo_log,
            cluster_id=self._folder.cluster_id,
            node=self._folder.master_id,
        )

    def _solo(self) -> SoloLog:
        folder = self._folder
        return SoloLog(
            self._env,
            folder.solo_log,
            cluster_id=folder.cluster_id,
            member_name=folder.master_id,
        )

    def _raft(self) -> RaftLog:
        client = self._credentials.client()
        client.set_alpn_protocols([RAFT_ALPN])
        self._network = TlsNetwork(
            self._env,
            cluster_id=self._folder.cluster_id,
            node=self._folder.master_id,
            listen=None,
            server_tls=self._credentials.server(),
            client_tls=client,
            verify=self._verify,
        )
        self._credentials.when_trust_changes(self._network.verify_again)
        return RaftLog(
            self._env,
            self._folder.raft_log,
            cluster_id=self._folder.cluster_id,
            node=self._folder.master_id,
            network=self._network,
            first_peers=self._folder.first_peers,
        )

    def _verify(self, certificate: bytes) -> str:
        try:
            return self._credentials.verify(certificate)
        except NotAllowedHere as error:
            raise NotABearer(str(error)) from error
