"""What a server says never reaches the terminal raw."""

import subprocess
import sys

import pytest

from orca.show import clean, size


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("a\rb\x08c\x00", "abc"),
        ("two\nlines\t", "two\nlines\t"),
        ("\x9b2J", "2J"),
        ("日本", "日本"),
    ],
)
def test_in_27_terminal_escapes_are_stripped(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_sizes_are_for_people() -> None:
    assert [size(0), size(1536), size(3 << 30)] == ["0 B", "1.5 KiB", "3.0 GiB"]


def test_help_loads_no_http_client() -> None:
    """It would take three times as long."""
    code = "import sys, orca.main; assert 'aiohttp' not in sys.modules, 'aiohttp was loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)
