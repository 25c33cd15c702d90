"""Real workers as processes that a test starts, stops and breaks one by one, wherever they run."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from chaos.daemons import DaemonProcess


class WorkerProcess(DaemonProcess):
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
        command = [
            *(*prefix, sys.executable, "-m", "orca_worker", "--name", name),
            *("--data-dir", str(folder / name), "--address", host, "--log-json"),
            *options,
        ]
        super().__init__(folder, name, command)

    def start(self, masters: Sequence[str], *, token: str = "") -> None:
        told = {"ORCA_WORKER_JOIN_TOKEN": token} if token else {}
        self._start(*(part for api in masters for part in ("--master", api)), **told)

    def clear(self) -> None:
        """Stop and remove what runs there, as `orca-worker --clear`."""
        subprocess.run([*self._command, "--clear"], capture_output=True, check=False)
