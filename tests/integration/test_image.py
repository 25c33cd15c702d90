"""The Dockerfile: built on a base image made of this machine's own Python, without any network."""

import io
import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

import engine

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
PREFIX = Path(sys.base_prefix).resolve()
APPLETS = ("sh", "rm", "cat", "ls", "mkdir")
LEFT_OUT = re.compile(
    r"/(test|tests|idlelib|tkinter|__pycache__|ensurepip/_bundled_old)(/|$)|\.pyc$|\.a$"
)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the image installs, as wheels."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(ROOT), "hatchling"], check=True, timeout=300)
    for built in folder.glob("orca_cluster-*"):
        built.unlink()
    return folder


@pytest.fixture(scope="module")
def image(engine_url: str, wheels: Path) -> Iterator[str]:
    client = engine.connect(engine_url)
    client.timeout = 600
    base, tag = engine.image_name("base"), engine.image_name("orca")
    try:
        _build(client, base, _base_context(wheels), {})
        arguments = {
            "BASE": base,
            "PYTHON": str(PREFIX / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"),
            "PIP_OPTIONS": "--no-index --find-links /wheels",
        }
        _build(client, tag, _project_context(), arguments)
        yield tag
    finally:
        engine.clean(client, "orca.task=none", images=(tag, base))
        client.close()


def _build(
    client: docker.APIClient, tag: str, context: io.BytesIO, arguments: dict[str, str]
) -> None:
    said = list(
        client.build(
            fileobj=context,
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            buildargs=arguments,
            decode=True,
        )
    )
    errors = [line["error"] for line in said if "error" in line]
    assert not errors, "".join(line.get("stream", "") for line in said)[-3000:] + errors[0]


def _base_context(wheels: Path) -> io.BytesIO:
    """FROM scratch: this Python, the libraries that it needs, a shell, and the wheels."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(PREFIX, arcname=str(PREFIX).lstrip("/"), filter=_without_tests)
        for library in _libraries():
            tar.add(os.path.realpath(library), arcname=library.lstrip("/"))
        busybox = Path("/bin/busybox").resolve().read_bytes()
        for applet in APPLETS:
            _add(tar, f"bin/{applet}", busybox, 0o755)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
        for folder in ("tmp", "root", "var/lib"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        for wheel in wheels.iterdir():
            tar.add(wheel, arcname=f"wheels/{wheel.name}")
    dockerfile = b"FROM scratch\nADD base.tar /\nENV PATH=/bin\n"
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        _add(tar, "Dockerfile", dockerfile, 0o644)
        _add(tar, "base.tar", layer.getvalue(), 0o644)
    context.seek(0)
    return context


def _without_tests(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if LEFT_OUT.search(info.name) or "site-packages" in info.name else info


def _libraries() -> list[str]:
    """What `ldd` says of the interpreter and its extensions, and what wheels may count on."""
    binaries = [os.path.realpath(sys.executable)]
    binaries += [str(path) for path in PREFIX.glob("lib/python3.*/lib-dynload/*.so")]
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    found = set(re.findall(r"(/\S+\.so\S*)", said))
    folder = Path(next(path for path in found if "libc.so" in path)).parent
    names = (
        "libstdc++.so.6",
        "libgcc_s.so.1",
        "libm.so.6",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
    )
    found |= {str(folder / name) for name in names if (folder / name).exists()}
    return sorted(
        path for path in found if not path.startswith(str(PREFIX)) and "lib-dynload" not in path
    )


def _project_context() -> io.BytesIO:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name in ("Dockerfile", "pyproject.toml", "README.md", "LICENSE",
                     "proto", "common", "master", "worker", "cli"):  # fmt: skip
            tar.add(ROOT / name, arcname=name, filter=_without_tests)
    context.seek(0)
    return context


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.timeout(400)
def test_the_image_holds_all_three_programs_and_its_master_serves(
    image: str, engine_url: str
) -> None:
    client = engine.connect(engine_url)
    try:
        for program in ("orca", "orca-master", "orca-worker"):
            assert _run(client, image, [program, "--version"]).startswith(program)
        _master_serves(client, image)
    finally:
        client.close()


def _run(client: docker.APIClient, image: str, command: list[str]) -> str:
    container = client.create_container(image, command)["Id"]
    try:
        client.start(container)
        code = client.wait(container)["StatusCode"]
        said: str = client.logs(container).decode()
        assert code == 0, said
        return said
    finally:
        client.remove_container(container, force=True, v=True)


def _master_serves(client: docker.APIClient, image: str) -> None:
    config: Any = client.create_host_config(port_bindings={6880: ("127.0.0.1", None)})
    container = client.create_container(image, ports=[6880], host_config=config)["Id"]
    try:
        client.start(container)
        port = client.inspect_container(container)["NetworkSettings"]["Ports"]["6880/tcp"][0][
            "HostPort"
        ]
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api/v1/health", timeout=5
                ) as r:
                    assert r.read() == b'{"status":"ok"}\n'
                    return
            except OSError:
                assert client.inspect_container(container)["State"]["Running"], client.logs(
                    container
                )
        pytest.fail("the master in the image never served")
    finally:
        client.remove_container(container, force=True, v=True)
