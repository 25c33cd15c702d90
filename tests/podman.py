"""For tests with Podman: a service of its own, with its own images and containers, on a socket."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from orca_worker.runtime.docker.engine import knock

START_SECONDS = 60
_LIMITS = '["nofile=1024:1024", "nproc=1024:1024"]'


class Podman:
    """As a context manager; `url` is its socket's."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="orca-podman-"))
        self.url = f"unix://{self._folder}/sock"
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def what_is_missing() -> str:
        """Why it cannot run here; empty: it can."""
        missing = [name for name in ("podman", "runc", "conmon") if shutil.which(name) is None]
        if missing:
            return f"not installed: {', '.join(missing)}"
        return "" if os.geteuid() == 0 else "Podman's tests need root"

    def __enter__(self) -> Self:
        # Its own defaults ask for more than the machine that the tests run on may allow.
        (self._folder / "conf").write_text(f"[containers]\ndefault_ulimits = {_LIMITS}\n")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command(), "system", "service", "--time=0", self.url],
                env={**os.environ, "CONTAINERS_CONF": str(self._folder / "conf")},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                knock(self.url)
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    words = (self._folder / "log").read_text()
                    self.__exit__(None, None, None)
                    raise RuntimeError(f"podman does not start: {words}") from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            subprocess.run([*self._command(), "rm", "-af", "-t", "0"], capture_output=True)
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            subprocess.run([*self._command(), "system", "reset", "-f"], capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _command(self) -> list[str]:
        return [
            "podman",
            f"--root={self._folder}/root",
            f"--runroot={self._folder}/run",
            f"--tmpdir={self._folder}/tmp",
            f"--network-config-dir={self._folder}/networks",
            "--cgroup-manager=cgroupfs",
            "--runtime=runc",
            "--events-backend=file",
        ]
