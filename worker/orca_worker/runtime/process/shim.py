"""The program beside each plain process: starts it, waits for it, and writes down how it ended.

Run as `python -I -S shim.py <task folder>` in a session of its own, so that it outlives the worker.
It imports nothing but the standard library, and little of that: it stays in memory as long as the
task. With a command after the folder it becomes that instead, in the task's place (`run_beside`).

It reads `task.json`, writes `state.json` (always whole: a new file renamed over the old one)
and says one line on its standard output: "started", "busy", or "refused <reason>". Variables whose values
are in no file (`secret_env`) it reads from its standard input.

The lock on `lock` is held as long as this program lives: there is never a second one for a task.
"""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

TRIM_SECONDS, LONGEST_TRIM_SECONDS = 0.2, 5.0
TRIM_SLACK = 1 << 20
CANNOT_RUN = 127
# File systems end at a few times this.
LARGEST_FILE = 1 << 40


def main(folder: str) -> int:
    os.closerange(3, 1 << 20)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.chdir(folder)
    lock = os.open("lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return say("busy")
    if os.path.exists("state.json"):
        return say("busy")
    if os.path.exists("condemned"):
        return say("refused the node's lease ended before it was started")
    with open("task.json", encoding="utf-8") as file:
        task = json.load(file)
    if task.get("secret_env"):
        task["env"].update(json.loads(read_all(0)))
        os.open(os.devnull, os.O_RDONLY)  # takes the place of 0, which was closed
    os.close(os.open("output.log", os.O_CREAT | os.O_WRONLY, 0o640))
    go_read, go_write = os.pipe()
    result_read, result_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        os.close(result_read)
        become(task, go_read, result_write)
    task["env"].clear()  # it stays in memory as long as the task, and needs no secret for that
    os.close(go_read)
    os.close(result_write)
    signal.signal(signal.SIGTERM, lambda *_: kill_group(pid, signal.SIGTERM))
    state = {
        "boot": boot_id(),
        "shim": os.getpid(),
        "shim_start": start_of(os.getpid()),
        "pid": pid,
        "pid_start": start_of(pid),
        "started_at": time.time(),  # noqa: TID251 - a program of its own has no Env
    }
    # Written before the command begins: a command without a record could never be found again.
    write_state(state)
    os.write(go_write, b"g")
    os.close(go_write)
    refused = read_all(result_read)
    if refused:
        os.waitpid(pid, 0)
        os.unlink("state.json")
        return say("refused " + refused)
    say("started")
    # Looked at before it is reaped: as long as the dead leader has its number, so has its group.
    wait_and_trim(pid, task.get("output_bytes", 0))
    kill_group(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    state["exit_code"] = code if code >= 0 else 128 - code
    state["ended_at"] = time.time()  # noqa: TID251
    state["oom_killed"] = was_out_of_memory(task["cgroups"])
    write_state(state)
    return 0


def wait_and_trim(pid: int, most: int) -> None:
    """Wait for the command's end, and keep no more of its output than `most` bytes meanwhile."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    output = os.open("output.log", os.O_RDWR | os.O_CLOEXEC)
    seen, pause = 0, TRIM_SECONDS
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        signal.sigtimedwait({signal.SIGCHLD}, pause)
        size = os.fstat(output).st_size
        # Who writes is looked at often, who is silent seldom.
        pause = TRIM_SECONDS if size != seen else min(2 * pause, LONGEST_TRIM_SECONDS)
        seen = size
        trim(output, size, most)
    trim(output, os.fstat(output).st_size, most)
    os.close(output)


def trim(output: int, size: int, most: int) -> None:
    """Give the disk back what is older than the last `most` bytes; offsets stay what they are."""
    if not most or os.fstat(output).st_blocks * 512 <= most + TRIM_SLACK:
        return
    if size > LARGEST_FILE or not punch(output, size - most):
        os.ftruncate(output, 0)  # all of it, where a file can have no holes


def punch(output: int, end: int) -> bool:
    """Make a hole from the beginning up to the last whole page before `end`."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    end -= end % 4096
    arguments = (
        ctypes.c_int(output),
        ctypes.c_int(3),
        ctypes.c_longlong(0),
        ctypes.c_longlong(end),
    )
    return end <= 0 or libc.fallocate(*arguments) == 0


def limit(limits: dict[str, int]) -> None:
    """What holds for each process where a control group does not hold for all."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.get("data"):
        resource.setrlimit(resource.RLIMIT_DATA, (limits["data"], limits["data"]))


def become(task: dict[str, Any], go_read: int, result_write: int) -> NoReturn:
    """In the child: wait for the word, then turn into the command. Never returns."""
    command = task["command"]
    doing = "starting " + command[0]
    try:
        os.setsid()
        if not os.read(go_read, 1):
            os._exit(125)
        output = os.open("output.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o640)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        for step in enter(task):
            doing = step
        doing = "starting " + command[0]
        os.execvpe(command[0], command, task["env"])
    except FileNotFoundError as error:
        missing = "command not found: " + command[0]
        reason = missing if doing.startswith("starting") else f"{doing}: {error.strerror}"
    except (OSError, KeyError, ValueError) as error:
        reason = f"{doing}: {getattr(error, 'strerror', None) or error}"
    os.write(result_write, reason.encode())
    os._exit(127)


def enter(task: dict[str, Any]) -> Iterator[str]:
    """Take the task's place: its groups, limits, user and folder. Says what it does next."""
    for folder in task["cgroups"]:
        yield "joining " + folder
        with open(folder + "/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")
    yield "setting limits"
    limit(task.get("limits") or {})
    if task["user"]:
        yield "becoming user " + task["user"]
        become_user(task["user"])
    yield "entering " + (task["workdir"] or "work")
    os.chdir("work")
    if task["workdir"]:
        os.chdir(task["workdir"])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def run_beside(folder: str, command: list[str]) -> NoReturn:
    """Turn into another command in the place of the task: a probe."""
    os.chdir(folder)
    with open("task.json", encoding="utf-8") as file:
        task = json.load(file)
    try:
        for _ in enter(task):
            pass
        os.execvpe(command[0], command, task["env"])
    except (OSError, KeyError, ValueError):
        os._exit(CANNOT_RUN)


def become_user(user: str) -> None:
    """`name`, `uid`, or either with `:group`; the work folder becomes theirs."""
    import grp
    import pwd

    name, _, group = user.partition(":")
    if name.isdigit():
        uid, gid, groups = int(name), int(name), []
    else:
        entry = pwd.getpwnam(name)
        uid, gid = entry.pw_uid, entry.pw_gid
        groups = os.getgrouplist(name, gid)
    if group:
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        groups = [gid]
    os.chown("work", uid, gid)
    os.setgroups(groups or [gid])
    os.setgid(gid)
    os.setuid(uid)


def was_out_of_memory(folders: list[str]) -> bool:
    """Whether the kernel killed in the task's control group, as either version counts it."""
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):
            try:
                with open(folder + "/" + name, encoding="ascii") as file:
                    counts = dict(line.split() for line in file)
            except (OSError, ValueError):
                continue
            if counts.get("oom_kill", "0") != "0":
                return True
    return False


def write_state(state: dict[str, Any]) -> None:
    """Replace `state.json` as a whole."""
    with open("state.new", "w", encoding="utf-8") as file:
        json.dump(state, file)
    os.rename("state.new", "state.json")


def start_of(pid: int) -> int:
    """When the process began, in the kernel's ticks: with it a reused number is told apart."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def boot_id() -> str:
    """The name of this run of the kernel: numbers of processes mean nothing in another one."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def kill_group(pid: int, number: int) -> None:
    """A signal to the whole group, if there still is one."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def read_all(fd: int) -> str:
    """Everything up to the end of the pipe."""
    data = b""
    while piece := os.read(fd, 4096):
        data += piece
    os.close(fd)
    return data.decode(errors="replace")


def say(word: str) -> int:
    """One line to the worker, which may be gone; then the pipe is closed."""
    try:
        os.write(1, word.encode() + b"\n")
    except OSError:
        return 0
    os.dup2(0, 1)
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run_beside(sys.argv[1], sys.argv[2:])
    sys.exit(main(sys.argv[1]))
