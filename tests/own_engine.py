"""A `dockerd` of one's own, with its own folder, socket and network namespace.

Nothing here meets the machine's own engine. Whatever is started is stopped, by process id, and removed. Needs
root, dockerd, ip, nsenter, iptables and a static busybox.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import psutil
import requests

from engine import build_image
from orca_worker.runtime.docker.engine import knock

IMAGE = "127.0.0.1:1/orca-bench:1"
"""Nobody listens on that port: Swarm, which asks the registry for every task, is refused at once
and uses the local image. Any other name would cost it seconds."""

START_SECONDS = 30.0
STOP_SECONDS = 20.0
GONE_SECONDS = 120.0
POLL_SECONDS = 0.01


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)


class PrivateEngine:
    """A running dockerd in a network namespace, a new one unless it `exists`. `client` is a low-level
    SDK client of it."""

    def __init__(self, folder: Path, namespace: str, *, exists: bool = False) -> None:
        self._folder = folder
        self._namespace = namespace
        self._has_own_namespace = not exists
        self._daemon: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/docker.sock"
        self.client: docker.APIClient

    def start(self) -> None:
        if self._has_own_namespace:
            subprocess.run(["ip", "netns", "add", self._namespace], check=True)
        subprocess.run([*self._in_namespace(), "ip", "link", "set", "lo", "up"], check=True)
        self._launch()
        if not self.client.images(IMAGE):
            build_image(self.client, IMAGE)

    def _in_namespace(self) -> list[str]:
        """Not `ip netns exec`: that would hide the control groups from the engine."""
        return ["nsenter", f"--net=/run/netns/{self._namespace}"]

    def _launch(self) -> None:
        command = [
            *self._in_namespace(),
            *("dockerd", "--data-root", f"{self._folder}/data"),
            *("--exec-root", f"{self._folder}/run", "--pidfile", f"{self._folder}/pid"),
            *("-H", self.url),
        ]
        with (self._folder / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, START_SECONDS, "start the private engine")

    def restart(self) -> None:
        """As its service manager does: what runs in it ends with it and is not started again by it."""
        assert self._daemon is not None
        self.client.close()
        self._daemon.terminate()
        self._daemon.wait(STOP_SECONDS)
        self._launch()

    def lose_power(self) -> None:
        """`die`, and a start on what is left on the disk; what is in /run is not."""
        self.die()
        self._unmount()
        shutil.rmtree(self._folder / "run")
        self._launch()

    def die(self) -> None:
        """SIGKILL for the engine and all that runs in it, as when the machine loses its power."""
        assert self._daemon is not None
        self.client.close()
        doomed = [*self.daemons(), *self._left_behind()]
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._daemon.wait()
        for name in ("pid", "docker.sock"):
            (self._folder / name).unlink(missing_ok=True)

    def stop(self) -> None:
        if self._daemon is not None:
            with suppress(Exception):
                self.remove_containers()
            with suppress(Exception):
                self.client.close()
            self._daemon.terminate()
            try:
                self._daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        for process in self._left_behind():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._unmount()
        if self._has_own_namespace:
            subprocess.run(["ip", "netns", "del", self._namespace], check=False)

    def _unmount(self) -> None:
        mounted = [
            line.split()[1]
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if line.split()[1].startswith(f"{self._folder}/")
        ]
        for path in sorted(mounted, reverse=True):
            subprocess.run(["umount", "-l", path], check=False)

    def daemons(self) -> list[psutil.Process]:
        """dockerd and its containerd, without what runs on behalf of containers."""
        pid = int((self._folder / "pid").read_text())
        dockerd = psutil.Process(pid)
        return [dockerd, *(p for p in dockerd.children() if p.name() == "containerd")]

    def containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.containers(all=True)
        return found

    def remove_containers(self) -> None:
        for container in self.containers():
            with suppress(docker.errors.APIError):
                self.client.remove_container(container["Id"], force=True, v=True)

    def until_empty(self) -> None:
        until(lambda: not self.containers(), GONE_SECONDS, "remove the containers")

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise RuntimeError(f"dockerd does not start: {(self._folder / 'log').read_text()}")
        try:
            knock(self.url)  # the client would leave a socket open
            self.client = docker.APIClient(base_url=self.url, version="auto", timeout=120)
        except (docker.errors.DockerException, requests.RequestException, OSError):
            return False
        return True

    def _left_behind(self) -> Iterator[psutil.Process]:
        """Shims outlive their engine, and so do the containers under them."""
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if f"{self._folder}/run/" in " ".join(process.cmdline()):
                    yield from process.children(recursive=True)
                    yield process
