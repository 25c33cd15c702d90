"""The service that `orca up --sample` deploys: a page over HTTP, in a container where that can be.

There is no need of a public registry: where an engine runs and a static busybox is here, the image
is made of it; elsewhere the page is served by a plain process.
"""

import io
import shutil
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

IMAGE = "orca-sample:1"
PAGE = "<h1>Orca runs.</h1>\n"
NAME = "hello"
PT_INTERP = 3


def sample(folder: Path, *, containers: bool) -> tuple[dict[str, Any], str]:
    """(the service's payload, why it is what it is). `containers`: a node has an engine."""
    busybox = shutil.which("busybox")
    if not containers:
        return _process(folder), "a plain process: no container engine answers here"
    if busybox is None or not _is_static(Path(busybox)):
        return _process(folder), "a plain process: there is no static busybox to make an image of"
    try:
        _make_image(Path(busybox))
    except Exception as error:  # whatever keeps the engine from it, the sample still runs
        return _process(folder), f"a plain process: no image could be made ({error})"
    service = {
        "name": NAME,
        "image": IMAGE,
        "replicas": 2,
        "port": 8080,
        "health": "/",
        "resources": {"memory": "32Mi", "cpu": 0.1},
    }
    return service, f"a container, from the image {IMAGE} made here of busybox"


def _process(folder: Path) -> dict[str, Any]:
    pages = folder / "sample"
    pages.mkdir(parents=True, exist_ok=True)
    (pages / "index.html").write_text(PAGE)
    serve = (
        "import http.server, os, sys;"
        "os.chdir(sys.argv[1]);"
        "http.server.test(http.server.SimpleHTTPRequestHandler,"
        " port=int(os.environ['PORT']), bind='127.0.0.1')"
    )
    return {
        "name": NAME,
        "command": [sys.executable, "-c", serve, str(pages)],
        "replicas": 2,
        "port": 8080,
        "health": "/",
    }


def _is_static(binary: Path) -> bool:
    """Whether the ELF file asks for no dynamic loader (64-bit little-endian; others: no)."""
    raw = binary.read_bytes()[:4096]
    if raw[:6] != b"\x7fELF\x02\x01":
        return False
    offset, size, count = struct.unpack_from("<Q", raw, 32)[0], *struct.unpack_from("<HH", raw, 54)
    kinds = [struct.unpack_from("<I", raw, offset + size * number)[0] for number in range(count)]
    return PT_INTERP not in kinds


def _make_image(busybox: Path) -> None:
    import docker  # slow to import, and only needed here

    context = io.BytesIO()
    dockerfile = (
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY index.html /www/index.html\n"
        'CMD ["/bin/busybox", "httpd", "-f", "-v", "-p", "8080", "-h", "/www"]\n'
    )
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, data, mode in (
            ("Dockerfile", dockerfile.encode(), 0o644),
            ("index.html", PAGE.encode(), 0o644),
            ("busybox", busybox.read_bytes(), 0o755),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    context.seek(0)
    client = docker.from_env(timeout=60)
    try:
        client.images.build(fileobj=context, custom_context=True, tag=IMAGE, rm=True)
    finally:
        client.close()
