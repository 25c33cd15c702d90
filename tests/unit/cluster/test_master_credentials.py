"""What a master renews is shown by the TLS that it has given out already."""

import asyncio
import ssl
from pathlib import Path

from cryptography import x509

from orca_common.real import real_env
from orca_master.app.credentials import Credentials
from orca_master.app.folder import Folder
from orca_proto.identity import MASTER_NAME
from raft_tls import CLUSTER, an_authority


async def shown(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[int, int]:
    """The serial numbers that the server and the client show each other."""
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(_serial(writer))
        writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname=MASTER_NAME
        )
        of_server = _serial(writer)
        of_client = await seen
        writer.close()
    return of_server, of_client


def _serial(writer: asyncio.StreamWriter) -> int:
    raw = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(raw).serial_number


async def test_contexts_that_were_given_out_show_the_renewed_certificate_cl_14(
    tmp_path: Path,
) -> None:
    signer, env = an_authority(), real_env(threads=1)
    credentials = Credentials(env, Folder(tmp_path, CLUSTER, "m1", (bytes(32),), None))
    credentials.renew(signer)
    server, client = credentials.server(), credentials.client()
    serials = []
    for _ in range(3):
        own = x509.load_pem_x509_certificate(credentials.certificate_and_key()[0]).serial_number
        assert await shown(server, client) == (own, own)
        serials.append(own)
        credentials.renew(signer)
    assert len(set(serials)) == 3
