"""The program that ends fenced replicas of a node without a lease, also when its worker is dead or stopped.

Run as `python -I -S guardian.py <folder>` in a session of its own, one for each worker; it outlives the
worker, and ends by itself once nothing is fenced here. It imports nothing but a little of the standard
library: it stays in memory.

    lease.json       {"boot", "until"}, by the worker: seconds of CLOCK_BOOTTIME, which runs in suspend
    tasks/<id>       what is fenced: {"runtime": "process", "folder"}, or
                     {"runtime": "docker", "socket", "labels"}
    condemned/<id>   the same, of tasks whose lease has ended: for good, whatever lease comes later
    lock             held by the one guardian
    door             held while the worker adds a task, and while a guardian ends

The worker calls `enforce` too, for the time when there is no guardian.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from typing import Any

LOOK_SECONDS = 0.25
IDLE_SECONDS = 5.0
ENGINE_SECONDS = 5.0
ROUNDS = 10


def main(folder: str) -> int:
    os.closerange(3, 1 << 20)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("-999")
    os.chdir(folder)
    lock = os.open("lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return say("busy")
    say("watching")
    known: dict[str, Any] = {}
    idle_since = boottime()
    while True:
        known = enforce(".") or known
        if not os.path.isdir("tasks"):  # taken away: nobody extends anything any more
            for one in known.values():
                end(one)
            return 0
        if os.listdir("tasks") or os.listdir("condemned"):
            idle_since = boottime()
        elif boottime() - idle_since > IDLE_SECONDS and may_leave():
            return 0
        time.sleep(LOOK_SECONDS)  # noqa: TID251 - a program of its own has no loop


def may_leave() -> bool:
    """Nobody adds a task at this moment, and there is none. The door stays shut until this program ends."""
    door = os.open("door", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(door)
        return False
    return not os.listdir("tasks")


def enforce(folder: str) -> dict[str, Any]:
    """One look: without a lease all tasks are condemned, and what is condemned is ended. What is fenced."""
    tasks, condemned = os.path.join(folder, "tasks"), os.path.join(folder, "condemned")
    known = read_all(tasks)
    if known and not is_held(folder):
        for id in known:
            with contextlib.suppress(FileNotFoundError):  # the worker, or a guardian, was first
                os.rename(os.path.join(tasks, id), os.path.join(condemned, id))
    for id, one in read_all(condemned).items():
        try:
            end(one)
        except (OSError, ValueError, KeyError) as error:
            sys.stderr.write(f"task {id} cannot be ended: {error!r}\n")
            sys.stderr.flush()
    return known


def is_held(folder: str) -> bool:
    lease = read(os.path.join(folder, "lease.json"))
    return bool(lease) and lease["boot"] == boot_id() and boottime() < lease["until"]


def end(one: dict[str, Any]) -> None:
    """SIGKILL, if there is something. Raises OSError, ValueError, KeyError."""
    if one["runtime"] == "process":
        end_process(one["folder"])
    else:
        end_container(one["socket"], one["labels"])


def end_process(folder: str) -> None:
    """All of the task but its shim, which writes down how it ended and starts nothing from now on."""
    if not os.path.exists(os.path.join(folder, "task.json")):
        return
    with open(os.path.join(folder, "condemned"), "w"):
        pass
    task, state = (read(os.path.join(folder, name)) for name in ("task.json", "state.json"))
    leader = 0
    if state and state["boot"] == boot_id() and state.get("exit_code") is None:
        leader = state["pid"]
    home = b"HOME=" + os.path.join(folder, "work").encode()
    for _ in range(ROUNDS):  # what is forked meanwhile is found by the next one
        found = members(task.get("cgroups") or [], leader, state.get("pid_start", 0), home)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def members(groups: list[str], leader: int, start: int, home: bytes) -> set[int]:
    """Processes of the control groups, of the leader's session, and what was started with this HOME."""
    found: set[int] = set()
    for group in groups:
        with contextlib.suppress(OSError), open(os.path.join(group, "cgroup.procs"), "rb") as file:
            found.update(map(int, file.read().split()))
    for name in os.listdir("/proc") if leader else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                is_later = int(fields[19]) >= start
                if fields[0] in b"ZX" or not is_later:
                    continue
                if int(fields[3]) == leader or has_home(name, home):
                    found.add(int(name))
    return found


def has_home(pid: str, home: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return home in file.read().split(b"\0")
    except OSError:
        return False


def end_container(path: str, labels: dict[str, str]) -> None:
    """Of the containers with exactly these labels, those that run."""
    wanted = {"label": [f"{key}={value}" for key, value in sorted(labels.items())]}
    status, body = ask(path, "GET", "/containers/json?filters=" + quoted(json.dumps(wanted)))
    if status != 200:
        raise ValueError(f"the engine answers {status}")
    for container in json.loads(body):
        status, body = ask(path, "POST", f"/containers/{container['Id']}/kill")
        if status not in (204, 404, 409):  # gone, or has ended, meanwhile
            raise ValueError(f"the engine answers {status}: {body[:200].decode(errors='replace')}")


def ask(path: str, method: str, target: str) -> tuple[int, bytes]:
    """One request to the engine; in HTTP 1.0 the answer ends with the connection."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(ENGINE_SECONDS)
        door.connect(path)
        door.sendall(f"{method} {target} HTTP/1.0\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
        answer = b""
        while piece := door.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def quoted(text: str) -> str:
    return "".join(
        c if c.isascii() and c.isalnum() else f"%{b:02X}" for c in text for b in c.encode()
    )


def read_all(folder: str) -> dict[str, Any]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return {}
    return {n: found for n in names if n[0] != "." and (found := read(os.path.join(folder, n)))}


def read(path: str) -> dict[str, Any]:
    """Empty: there is nothing, or nothing that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def say(word: str) -> int:
    """One line to who started this program; then the pipe is closed."""
    with contextlib.suppress(OSError):
        os.write(1, word.encode() + b"\n")
    os.dup2(0, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
