"""A daemon as a process that a test starts, stops and breaks, wherever it runs."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class DaemonProcess:
    """Its folder and its log are `folder/name` and `folder/name.log`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.data = folder / name
        self._log = folder / f"{name}.log"
        self._command = list(command)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self, *options: str, **told: str) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *options],
                env=dict(os.environ) | self._environment | told,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        if self.is_alive:
            assert self._process is not None
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
