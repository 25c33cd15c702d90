"""Faults inside a real process: `shim.c`, compiled once with `cc`, steered through a shared file."""

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

FIELDS = (
    "calls",
    "kill_at",
    "is_torn",
    "fail_at",
    "failed",
    "fail_syncs",
    "sync_delay_us",
    "is_full",
    "clock_offset_s",
)
_value = struct.Struct("q")


class Shim:
    """The faults of one process; `environment` is what the process is started with.

    Setting a field works at once, also while the process runs: `shim.set("sync_delay_us", 500_000)`.
    """

    def __init__(self, library: Path, control: Path, folder: Path) -> None:
        control.write_bytes(bytes(_value.size * len(FIELDS)))
        with open(control, "r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), 0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "ORCA_SHIM_CONTROL": str(control),
            "ORCA_SHIM_FOLDER": str(folder),
        }

    def get(self, field: str) -> int:
        return int(_value.unpack_from(self._mapped, _value.size * FIELDS.index(field))[0])

    def set(self, field: str, value: int) -> None:
        _value.pack_into(self._mapped, _value.size * FIELDS.index(field), value)

    def clear(self) -> None:
        for field in FIELDS:
            self.set(field, 0)


def compile_shim(folder: Path) -> Path | None:
    """The library, or None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library)]
    subprocess.run([*command, str(source), "-ldl"], check=True, env=dict(os.environ))
    return library
