"""The systemd units: correct, and as closed as their work allows."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXPOSURE = {"orca-master": 15, "orca-worker": 20}  # in tenths, as --threshold wants it


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        assert not os.environ.get("CI"), "systemd-analyze is not installed"
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.mark.parametrize("name", EXPOSURE)
def test_sd_03_the_units_are_correct(analyze: str, name: str, tmp_path: Path) -> None:
    unit = tmp_path / f"{name}.service"
    text = (ROOT / "systemd" / unit.name).read_text()
    program = Path(sys.executable).parent / name
    assert f"ExecStart=/usr/local/bin/{name}\n" in text
    unit.write_text(text.replace(f"/usr/local/bin/{name}", str(program)))
    done = subprocess.run(
        [analyze, "verify", str(unit)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("name", EXPOSURE)
def test_sd_01_the_units_are_closed(analyze: str, name: str) -> None:
    unit = ROOT / "systemd" / f"{name}.service"
    command = [analyze, "security", "--offline=true", f"--threshold={EXPOSURE[name]}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
