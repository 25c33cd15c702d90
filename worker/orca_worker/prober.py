"""Probes over the network: HTTP, a TCP connection, the standard gRPC health service."""

import asyncio

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from grpc import aio

from orca_proto import worker_pb2 as pb
from orca_worker.http import NotHttp, get_status

CHECKS_AT_ONCE = 256
GRPC_METHOD = "/grpc.health.v1.Health/Check"
SERVING = {1: "", 2: "answered NOT_SERVING", 3: "answered SERVICE_UNKNOWN"}
GRPC_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a pause after a failure must not outlive the probe
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_metadata_size", 16384),
)


class NetworkProber:
    """One per worker. Waiting for one's turn among its many checks is no failure of what is asked."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def check(self, probe: pb.Probe, host: str, port: int) -> str | None:
        async with self._slots:
            try:
                async with asyncio.timeout(probe.timeout_seconds):
                    return await _ask(probe, host, port)
            except TimeoutError:
                return f"no answer within {probe.timeout_seconds:g} s"
            except ConnectionRefusedError:
                return "nothing listens on its port"
            except (NotHttp, OSError) as error:
                return str(error) or type(error).__name__


async def _ask(probe: pb.Probe, host: str, port: int) -> str | None:
    if probe.tcp:
        await _connect(host, port)
        return None
    if probe.grpc:
        return await _grpc(host, port, probe.service)
    status = await get_status(host, port, probe.path, probe.headers)
    return None if status < 400 else f"answered {status}"


async def _connect(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


async def _grpc(host: str, port: int, service: str) -> str | None:
    """Its messages have one field each: on the wire they are a wrapped string and a wrapped number."""
    request = StringValue(value=service).SerializeToString()
    async with aio.insecure_channel(f"{host}:{port}", options=GRPC_OPTIONS) as channel:
        check = channel.unary_unary(GRPC_METHOD)
        try:
            answer: bytes = await check(request)
        except aio.AioRpcError as error:
            return _in_words(error, service)
    try:
        status = Int32Value.FromString(answer).value
    except DecodeError:
        return "its answer is no health status"
    return SERVING.get(status, "answered UNKNOWN") or None


def _in_words(error: aio.AioRpcError, service: str) -> str:
    match error.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            return "it has no grpc.health.v1.Health: add the standard health service"
        case grpc.StatusCode.NOT_FOUND:
            return f"its health service does not know {service or 'the server'}"
        case grpc.StatusCode.UNAVAILABLE:
            return "nothing that speaks gRPC answers on its port"
        case code:
            return f"answered {code.name}"
