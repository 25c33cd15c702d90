"""Real workers as processes that a test starts, stops and breaks one by one, wherever they run."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SECONDS_TO_END = 10


class WorkerProcess:
    """One worker, in `folder/name`. `prefix` is what its command runs under (`nsenter …`).

    `options` go on its command line as they are.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *options: str,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.data = folder / name
        self._log = folder / f"{name}.log"
        self._command = [
            *(*prefix, sys.executable, "-m", "orca_worker", "--name", name),
            *("--data-dir", str(self.data), "--address", host, "--log-json"),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, masters: Sequence[str], *, token: str = "") -> None:
        told = {"ORCA_WORKER_JOIN_TOKEN": token} if token else {}
        command = [*self._command, *(part for api in masters for part in ("--master", api))]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                env=dict(os.environ) | told,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.is_alive:
            assert self._process is not None
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. What it runs goes on."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(SECONDS_TO_END)

    def clear(self) -> None:
        """Stop and remove what runs there, as `orca-worker --clear`."""
        subprocess.run([*self._command, "--clear"], capture_output=True, check=False)

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
