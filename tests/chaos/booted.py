"""A probe that runs as root inside a booted Debian: the units, driven by `systemctl`. FAULTS SD.

Started by the unit of `test_boot`; writes one JSON object to /results.json and powers off. It uses
what Debian's python3 has, and nothing of Orca: it is the operator.
"""

import json
import os
import re
import signal
import subprocess
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

API = "http://127.0.0.1:6880"
DATA = Path("/var/lib/orca/master")
SECONDS = 120.0

results: dict[str, Any] = {}


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"systemctl {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def shown(unit: str, what: str) -> str:
    return systemctl("show", "--value", "-p", what, unit)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)


def call(method: str, path: str, body: object = None) -> Any:
    token = (DATA / "admin.token").read_text().strip()
    request = urllib.request.Request(f"{API}{path}", method=method)
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, data, timeout=60) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from error


def services() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call("GET", "/api/v1/status")["services"]
    return found


def answers() -> bool:
    try:
        services()
    except (OSError, RuntimeError):
        return False
    return True


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def main_pid(unit: str) -> int:
    return int(shown(unit, "MainPID"))


def restarts(unit: str) -> int:
    return int(shown(unit, "NRestarts"))


def confinement(unit: str) -> dict[str, Any]:
    pid = main_pid(unit)
    found = status_of(pid)
    environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return {
        "uid": int(found["Uid"].split()[0]),
        "CapEff": found["CapEff"],
        "NoNewPrivs": found["NoNewPrivs"],
        "Seccomp": found["Seccomp"],
        "secrets_in_environment": re.findall(r"orca_[0-9a-f]{20,}|orcajoin\S+", environment),
    }


def master() -> None:
    """Started, confined, killed, hung, reloaded: it is there again, with all it has acknowledged."""
    unit = "orca-master"
    systemctl("start", unit)
    results["serves when started"] = answers()  # `start` returns after READY=1
    results["master"] = confinement(unit)
    results["key from the credential"] = not (DATA / "kek").exists()
    service = {"name": "kept", "command": ["sleep", "1000"], "replicas": 0}
    call("POST", "/api/v1/deploy?wait=false", {"services": [service]})
    os.kill(main_pid(unit), signal.SIGKILL)
    until(lambda: restarts(unit) == 1 and answers())
    results["kept after a kill"] = [s["name"] for s in services()]
    pid = main_pid(unit)
    systemctl("reload", unit)
    results["same process after a reload"] = main_pid(unit) == pid and answers()
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    until(lambda: restarts(unit) == 2 and answers())
    results["seconds until a hung one is back"] = round(time.monotonic() - began, 1)


def sleeps() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", b"7654321"]:
            found.append(int(folder.name))
    return found


def worker() -> None:
    """It joins by a credential, runs a process, and leaves it alone when it is stopped itself."""
    unit = "orca-worker"
    token = call("POST", "/api/v1/cluster/join-tokens", {})["token"]
    credential = Path("/etc/credstore/orca.join-token")
    credential.write_text(token)
    credential.chmod(0o600)
    systemctl("start", unit)
    results["worker"] = confinement(unit)
    until(lambda: [n["state"] for n in call("GET", "/api/v1/cluster/info")["nodes"]] == ["ready"])
    service = {"name": "runs", "command": ["sleep", "7654321"], "replicas": 2}
    answer = call("POST", "/api/v1/deploy", {"services": [service]})
    results["deployed"] = answer["deployed"]
    before = sorted(sleeps())
    results["replicas"] = len(before)
    systemctl("stop", unit)
    results["run on without the worker"] = sorted(sleeps()) == before
    credential.unlink()
    systemctl("start", unit)
    until(lambda: services()[-1]["running_replicas"] == 2)
    results["the same after its restart"] = sorted(sleeps()) == before
    systemctl("stop", "orca-master")
    results["run on without a master"] = sorted(sleeps()) == before


def probe() -> None:
    try:
        master()
        worker()
    except Exception:
        results["failed"] = traceback.format_exc()
    journal = ["journalctl", "--no-pager", "-o", "cat", "-u", "orca-*"]
    results["journal"] = subprocess.run(
        journal, capture_output=True, text=True, check=False
    ).stdout[-8000:]
    Path("/results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    probe()
    systemctl("poweroff", "--no-block")
