"""The units in a Debian that systemd has booted, in a container of systemd-nspawn. FAULTS SD.

In `make chaos` only (GROUP=boot): it takes root, debootstrap, and a mirror of Debian's packages.
"""

import json
import shutil
import site
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
INCLUDED = "systemd,systemd-sysv,dbus,python3"
LAUNCHER = """#!/usr/bin/python3
import sys
sys.path[:0] = ["/opt/orca"]
from {module} import main
main()
"""
PROBE_UNIT = """[Unit]
Description=The probe
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /probe.py
TimeoutStartSec=900
[Install]
WantedBy=multi-user.target
"""
PROGRAMS = {"orca-master": "orca_master.app.main", "orca-worker": "orca_worker.main"}
PACKAGES = ("common/orca_common", "master/orca_master", "worker/orca_worker", "proto/orca_proto")

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the probe found. The units are the very files of `systemd/`."""
    root = tmp_path_factory.mktemp("boot") / "root"
    run("debootstrap", "--variant=minbase", f"--include={INCLUDED}", "bookworm", str(root))
    version = run(str(root / "usr/bin/python3"), "-c", "import sys; print(sys.version_info[:2])")
    assert version == "(3, 11)", "the installed libraries are for Python 3.11, as Debian 12 has it"
    install(root)
    machine = ["systemd-nspawn", "-q", "-b", "-D", str(root), "--register=no", "--keep-unit"]
    run(*machine, "--private-network", "--console=read-only")
    yield json.loads((root / "results.json").read_text())
    shutil.rmtree(root, ignore_errors=True)


def install(root: Path) -> None:
    shutil.copytree(site.getsitepackages()[0], root / "opt/orca", symlinks=True)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / "opt/orca" / Path(package).name)
    for name, module in PROGRAMS.items():
        program = root / "usr/local/bin" / name
        program.write_text(LAUNCHER.format(module=module))
        program.chmod(0o755)
        shutil.copy(ROOT / f"systemd/{name}.service", root / f"etc/systemd/system/{name}.service")
    run("chroot", str(root), "groupadd", "--system", "docker")
    for user in ("orca", "orca-worker"):
        run("chroot", str(root), "useradd", "--system", "--shell", "/usr/sbin/nologin", user)
    store = root / "etc/credstore"
    store.mkdir(mode=0o700, exist_ok=True)
    (store / "orca.kek").write_bytes(bytes(range(32)))
    (store / "orca.kek").chmod(0o600)
    shutil.copy(Path(__file__).with_name("booted.py"), root / "probe.py")
    (root / "etc/systemd/system/probe.service").write_text(PROBE_UNIT)
    run("chroot", str(root), "systemctl", "enable", "probe.service")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


def test_the_units_do_what_they_say(booted: dict[str, Any]) -> None:
    journal = booted.pop("journal")
    assert "failed" not in booted, f"{booted['failed']}\n{journal}"
    confined = {"CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
    for daemon in ("master", "worker"):
        found = booted.pop(daemon)
        assert found.pop("uid") != 0, "SD-09"
        assert found.pop("secrets_in_environment") == [], "SD-14"
        assert found == confined, "SD-09"
    assert 10 < booted.pop("seconds until a hung one is back") < 120, "SD-05: WatchdogSec=20"
    assert booted == {
        "serves when started": True,
        "key from the credential": True,
        "kept after a kill": ["kept"],
        "same process after a reload": True,
        "deployed": ["runs"],
        "replicas": 2,
        "run on without the worker": True,
        "the same after its restart": True,
        "run on without a master": True,
    }
