"""For tests with a real container engine: finding it, images without a registry, a registry.

Knows nothing of pytest. Names carry this process's id, so parallel test runs do not meet.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from orca_worker.runtime.docker.engine import knock

SOCKET = "/var/run/docker.sock"
APPLETS = ("cat", "dd", "echo", "env", "httpd", "id", "ls", "nc", "printf", "seq", "sh", "sleep")
PAGE = b"hello from orca\n"
RUN = f"{os.getpid()}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"


def find_engine() -> str | None:
    """The URL of an engine that answers, or None."""
    url = os.environ.get("DOCKER_HOST") or f"unix://{SOCKET}"
    try:
        knock(url)  # the client would leave a socket open
        client = docker.APIClient(base_url=url, version="auto", timeout=5)
    except (DockerException, requests.RequestException, OSError):
        return None
    client.close()
    return url


def connect(url: str) -> docker.APIClient:
    """A client of one's own; close it."""
    return docker.APIClient(base_url=url, version="auto", timeout=60)


def image_name(purpose: str = "app") -> str:
    """A local image name that no other run of the tests uses."""
    return f"orca-test/{purpose}:{RUN}"


def build_image(client: docker.APIClient, tag: str) -> str:
    """An image of nothing but a static busybox; without a command it serves PAGE on PORT."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise RuntimeError("the tests' image needs a static busybox")
    repository, _, version = tag.rpartition(":")
    answer = client.import_image_from_data(
        _layer(Path(busybox).read_bytes()),
        repository=repository,
        tag=version,
        changes=[
            "ENV PATH=/bin",
            'CMD ["/bin/sh", "-c", "exec httpd -f -p ${PORT:-8080} -h /www"]',
        ],
    )
    # Podman takes the repository's name and not the tag.
    client.tag(json.loads(answer.splitlines()[-1])["status"], repository, version)
    return tag


def push_image(
    client: docker.APIClient, local: str, remote: str, account: dict[str, str] | None = None
) -> None:
    """Copy a local image into a registry and forget the remote name here."""
    repository, _, tag = remote.rpartition(":")
    client.tag(local, repository, tag)
    for line in client.push(repository, tag=tag, stream=True, decode=True, auth_config=account):
        if "error" in line:
            raise RuntimeError(line["error"])
    client.remove_image(remote, noprune=True)


def clean(client: docker.APIClient, *labels: str, images: tuple[str, ...] = ()) -> None:
    """Remove every container, volume and network with all these labels, and the images named."""
    for entry in client.containers(all=True, filters={"label": list(labels)}):
        try:
            client.remove_container(entry["Id"], v=True, force=True)
        except NotFound:
            continue
    for volume in client.volumes(filters={"label": list(labels)})["Volumes"] or ():
        client.remove_volume(volume["Name"], force=True)
    for network in client.networks(filters={"label": list(labels)}):
        try:
            client.remove_network(network["Id"])
        except APIError:
            continue
    for image in images:
        try:
            client.remove_image(image, force=True)
        except APIError:
            continue


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


ACCOUNT = ("puller", "correct-horse-battery")
_HTPASSWD = "puller:$2b$04$4kpkKbOFRUN5K20ZPgWNSu4ePVhLPr9RDLkLT1cL4wbq5LnhH9PXm\n"


class Registry:
    """A registry on a loopback port, as a context manager; `address` is `127.0.0.1:PORT`.

    `auth`: of its configuration, as text; empty: it lets everybody in. `with_password`: only ACCOUNT.
    """

    def __init__(self, auth: str = "", *, with_password: bool = False) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._folder = tempfile.mkdtemp(prefix="orca-registry-")
        self._auth = auth
        if with_password:
            file = Path(self._folder, "htpasswd")
            file.write_text(_HTPASSWD)
            self._auth = f"htpasswd: {{realm: here, path: {file}}}"
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        """Whether this machine has a registry to run."""
        return shutil.which("docker-registry") is not None

    def __enter__(self) -> Self:
        folder = Path(self._folder)
        config = folder / "config.yml"
        config.write_text(
            "version: 0.1\n"
            "log: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f"http: {{addr: '{self.address}'}}\n"
            + (f"auth:\n  {self._auth}\n" if self._auth else "")
        )
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 15
        while True:
            try:
                urllib.request.urlopen(f"http://{self.address}/v2/", timeout=2).close()
            except urllib.error.HTTPError as asks_who:
                asks_who.close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = Path(self._folder, "log").read_text()
                    raise RuntimeError(f"the registry does not start: {log}") from None
                time.sleep(0.05)
            else:
                return


def _layer(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, "bin/busybox", busybox, 0o755)
        _add(tar, "www/index.html", PAGE, 0o644)
        _add(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", 0o644)
        _add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(tmp)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))
