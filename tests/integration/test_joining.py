"""Who may connect as a worker, over the real ports: everybody else is told why not."""

import asyncio
import base64
import datetime
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from inprocess import free_port
from integration.conftest import RealCluster
from integration.test_drain import orca
from orca_master.app.joining import enrol as enrol_master
from orca_proto import worker_pb2 as pb
from orca_proto import worker_pb2_grpc as rpc
from orca_proto.identity import MASTER_NAME
from orca_proto.join import parse
from orca_worker.enrol import CannotJoin, Membership, join, saved

DAY = datetime.timedelta(days=1)


async def enrol(cluster: RealCluster, token: str, name: str, folder: Path) -> Membership:
    return await join(cluster.api, parse(token), name, folder)


async def fresh_token(cluster: RealCluster, **options: Any) -> str:
    async with cluster.client() as client:
        return await client.join_token(**options)


async def test_a_token_works_once_and_its_certificate_opens_the_stream(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    token = await fresh_token(process_cluster)
    membership = await enrol(process_cluster, token, "second", tmp_path / "a")
    assert await _greeting(process_cluster, membership) == "welcome"
    with pytest.raises(CannotJoin, match="used up"):
        await enrol(process_cluster, token, "third", tmp_path / "b")


async def test_a_token_with_two_uses_works_twice(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    token = await fresh_token(process_cluster, uses=2)
    await enrol(process_cluster, token, "a", tmp_path / "a")
    await enrol(process_cluster, token, "b", tmp_path / "b")
    with pytest.raises(CannotJoin, match="used up"):
        await enrol(process_cluster, token, "c", tmp_path / "c")


async def test_an_expired_token_is_refused(process_cluster: RealCluster, tmp_path: Path) -> None:
    token = await fresh_token(process_cluster, ttl=1.0)
    await asyncio.sleep(1.1)
    with pytest.raises(CannotJoin, match=r"expired: make a new one with `orca nodes token`"):
        await enrol(process_cluster, token, "late", tmp_path / "a")


async def test_a_name_in_use_is_refused_and_the_token_is_kept_cl_10(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    token = await fresh_token(process_cluster)
    with pytest.raises(CannotJoin, match="a node named worker-1 exists already"):
        await enrol(process_cluster, token, "worker-1", tmp_path / "a")
    async with process_cluster.client() as client:
        event = (await client.audit(limit=1))["events"][0]
        assert (event["action"], event["resource"]) == ("node.join-refused", "nodes/worker-1")
        first = next(n for n in (await client.cluster_info())["nodes"] if n["name"] == "worker-1")
        assert (first["state"], first["connected"]) == ("ready", True)
    await enrol(process_cluster, token, "other", tmp_path / "a")


async def test_a_removed_node_is_refused_after_a_restart_cl_13(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    token = await fresh_token(process_cluster)
    member = await enrol(process_cluster, token, "leaving", tmp_path / "a")
    async with process_cluster.client() as client:
        await client.remove_node("leaving", force=True)
    assert await _greeting(process_cluster, member) == "removed"
    await process_cluster.kill("master-1")
    await process_cluster.up()
    assert await _greeting(process_cluster, member) == "removed"


@asynccontextmanager
async def losing_the_first_answer(api: str) -> AsyncIterator[str]:
    """In front of this API, as while the leader changes: what it did with the first request to join
    is not known. The address; both requests must be the same node."""
    ids: list[str] = []

    async def forward(request: web.Request) -> web.Response:
        raw = await request.read()
        async with aiohttp.ClientSession(api) as session:
            kept = {"Content-Type": request.content_type} if raw else {}
            async with session.request(
                request.method, request.path, data=raw or None, headers=kept
            ) as answer:
                found = await answer.json()
        if request.method == "POST" and answer.status == 201:
            ids.append(found.get("node_id") or found["id"])
            if len(ids) == 1:
                return web.json_response({"error": "look, then ask again"}, status=504)
        return web.json_response(found, status=answer.status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
        assert ids == [ids[0]] * 2
    finally:
        await runner.cleanup()


async def test_who_does_not_hear_the_answer_asks_again_as_the_same_node(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    token = await fresh_token(process_cluster)
    async with losing_the_first_answer(process_cluster.api) as api:
        membership = await join(api, parse(token), "lost", tmp_path / "a")
    assert await _greeting(process_cluster, membership) == "welcome"
    (tmp_path / "a" / "node.json").unlink()  # it was killed before it had kept the answer
    again = await enrol(process_cluster, token, "lost", tmp_path / "a")
    assert again.node_id == membership.node_id
    with pytest.raises(CannotJoin, match="used up"):  # another key is somebody else
        await enrol(process_cluster, token, "lost", tmp_path / "b")


async def test_a_master_that_does_not_hear_the_answer_asks_again(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    token = parse(await fresh_token(process_cluster, role="master"))
    peers = f"127.0.0.1:{free_port()}"
    async with losing_the_first_answer(process_cluster.api) as api:
        await enrol_master([api], token, name="lost", peers=peers, folder=tmp_path / "a")
    async with process_cluster.client() as client:
        masters = await client.masters()
        assert [m["name"] for m in masters["masters"]].count("lost") == 1
        await client.remove_master("lost", force=True)


async def test_a_token_of_another_cluster_is_refused_before_anything_is_asked_cl_02(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    genuine = parse(await fresh_token(process_cluster))
    foreign = type(genuine)(bytes(32), genuine.seed).text()
    with pytest.raises(CannotJoin, match="not the cluster that the token was made for"):
        await enrol(process_cluster, foreign, "x", tmp_path / "a")


async def test_a_request_that_the_token_did_not_sign_is_refused(
    process_cluster: RealCluster,
) -> None:
    token = parse(await fresh_token(process_cluster))
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    body = {
        "name": "thief",
        "token": token.public_key,
        "request": base64.b64encode(request).decode(),
        "signature": base64.b64encode(token.sign("another-name", request)).decode(),
    }
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{process_cluster.api}/api/v1/cluster/enroll", json=body) as answer:
            assert answer.status == 403
            assert "not signed with the join token" in (await answer.json())["error"]
        body["request"] = base64.b64encode(b"nonsense").decode()
        async with http.post(f"{process_cluster.api}/api/v1/cluster/enroll", json=body) as answer:
            assert answer.status == 400


async def test_the_stream_needs_a_workers_certificate_of_this_cluster(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    membership = await enrol(
        process_cluster, await fresh_token(process_cluster), "good", tmp_path / "a"
    )
    ca = x509.load_pem_x509_certificate(membership.ca)
    foreign = _self_made(membership.node_id, "orca://x/worker/" + membership.node_id)
    for certificate, key in (foreign, (None, None)):
        refused = await _greeting(
            process_cluster, _with(membership, certificate, key), expect_refusal=True
        )
        assert refused == "UNAVAILABLE", "the handshake itself fails"
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


async def test_a_token_of_the_api_opens_no_stream_az_26(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    member = await enrol(
        process_cluster, await fresh_token(process_cluster), "other", tmp_path / "a"
    )
    refused = await _greeting(
        process_cluster,
        _with(member, None, None),
        expect_refusal=True,
        token=process_cluster.token,
    )
    assert refused == "UNAVAILABLE", "the handshake itself fails"


def _self_made(name: str, uri: str, *, ended: bool = False) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC) - (2 * DAY if ended else 0 * DAY)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), pem


def _with(membership: Membership, certificate: bytes | None, key: bytes | None) -> Any:
    return {"ca": membership.ca, "certificate": certificate, "key": key}


async def _greeting(
    cluster: RealCluster,
    who: Any,
    *,
    expect_refusal: bool = False,
    protocol: int = 1,
    token: str = "",
) -> str:
    """`welcome`, or the code that the master answers Hello with."""
    if isinstance(who, Membership):
        who = {"ca": who.ca, "certificate": who.certificate, "key": who.key}
    credentials = grpc.ssl_channel_credentials(who["ca"], who["key"], who["certificate"])
    address = f"127.0.0.1:{cluster.port + 1}"
    options = [("grpc.ssl_target_name_override", MASTER_NAME)]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        metadata = [("authorization", f"Bearer {token}")] if token else None
        call = rpc.WorkersStub(channel).Session(metadata=metadata)
        try:
            await call.write(pb.FromWorker(hello=pb.Hello(protocol=protocol, name="x")))
            message = await call.read()
            assert message is not grpc.aio.EOF
            return str(message.WhichOneof("body"))
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        except asyncio.InvalidStateError:
            return str((await call.code()).name)


async def test_another_protocol_is_refused_with_the_versions_cl_35(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    membership = await enrol(
        process_cluster, await fresh_token(process_cluster), "old", tmp_path / "a"
    )
    assert await _greeting(process_cluster, membership, protocol=99) == "PERMISSION_DENIED"


async def test_a_second_master_on_the_same_folder_is_refused(process_cluster: RealCluster) -> None:
    folder = process_cluster.folder / "master-1"
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orca_master", "--data-dir", str(folder), "--api-port", "1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await second.communicate()
    assert second.returncode == 1
    last = said.decode().strip().splitlines()[-1]
    assert last.startswith("error:")
    assert "another process" in last


async def test_a_node_whose_certificate_has_expired_joins_again_as_the_same_cl_14(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    member = await enrol(process_cluster, await fresh_token(process_cluster), "off", tmp_path / "o")
    folder = tmp_path / "worker" / "identity"
    folder.parent.mkdir()
    (tmp_path / "o").rename(folder)
    certificate, key = _self_made("off", "orca://c/worker/off", ended=True)
    (folder / "node.pem").write_bytes(certificate + key)
    assert "has expired" in await _worker_says(folder.parent, "off", "has expired")
    code, said = await orca(process_cluster, "nodes", "token", "--label", "disk")
    assert (code, "write KEY=VALUE" in said) == (2, True)
    code, said = await orca(process_cluster, "nodes", "token", "--label", "disk=ssd")
    token = said.strip()
    await _worker_says(folder.parent, "off", "connected", "--join", token, api=process_cluster.api)
    again = saved(folder)
    assert again is not None
    assert again.node_id == member.node_id
    assert await _greeting(process_cluster, again) == "welcome"
    async with process_cluster.client() as client:
        nodes = (await client.cluster_info())["nodes"]
        assert [n["labels"] for n in nodes if n["name"] == "off"] == [{"disk": "ssd"}]
        actions = [event["action"] for event in (await client.audit(limit=5))["events"]]
    assert actions.count("node.rejoin") == 1
    with pytest.raises(CannotJoin, match="used up"):  # the first token lets it in no more
        await enrol(process_cluster, token, "another", tmp_path / "b")


async def _worker_says(folder: Path, name: str, word: str, *flags: str, api: str = "") -> str:
    """What a worker that is started on this folder has said until this word came; it is then ended."""
    command = [sys.executable, "-m", "orca_worker", "--name", name, "--data-dir", str(folder)]
    command += ["--runtime", "process", *(("--master", api) if api else ()), *flags]
    worker = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert worker.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(60):
            while word not in said:
                line = await worker.stderr.readline()
                assert line, said
                said += line.decode()
    finally:
        worker.terminate()
        await worker.wait()
    return said
