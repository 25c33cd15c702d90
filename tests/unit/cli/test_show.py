"""What a server says never reaches the terminal raw."""

import json
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orca.show import as_json, as_yaml, clean, clean_lines, keep_colours, size

POISON = [
    ("plain", "plain"),
    ("\x1b[31mred\x1b[0m", "red"),
    ("\x1b[?1049h\x1b[2J\x1b[1;1Hx", "x"),
    ("\x1b]0;title\x07x", "x"),
    ("\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1b]52;c;ZXZpbA==", ""),
    ("\x9d8;;http://evil.example\x9clink", "link"),
    ("\x9b2Jx", "x"),
    ("\x1bP+q544e\x1b\\x", "x"),
    ("\x1b(0x\x1bcy", "xy"),
    ("\x1b", ""),
    ("a\rb\x08c\x00\x07", "abc"),
    ("\x7f\x80\x85\x9f", ""),
    ("user\u202exe.exe\u202c \u2066a\u2069\u200e\u200f\u061c", "userxe.exe a"),
    ("日本 ü 🐋", "日本 ü 🐋"),
]


@pytest.mark.parametrize(("raw", "shown"), POISON)
def test_in_27_terminal_escapes_are_stripped(raw: str, shown: str) -> None:
    assert clean(raw) == shown
    assert clean_lines(raw) == shown


def test_a_cell_or_a_sentence_stays_one_line() -> None:
    assert clean("two\nlines\tof it") == "two lines of it"
    assert clean_lines("two\nlines\tof it") == "two\nlines\tof it"


def test_colours_may_stay_and_end_with_their_line() -> None:
    raw = "\x1b[1;31mred\x1b[2J\x1b]0;t\x07\rx\nplain\n"
    assert keep_colours(raw) == "\x1b[1;31mredx\x1b[0m\nplain\n"


@given(st.text())
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    assert clean(clean(text)) == clean(text)
    assert not set(clean(text)) & set("\x1b\x9b\x07\r\n\x00\x7f\u202e")


@given(
    st.recursive(st.text() | st.integers() | st.none(), st.lists)
    | st.dictionaries(st.text(), st.text())
)
def test_json_and_yaml_say_the_same_value_and_nothing_raw(value: object) -> None:
    for text, back in ((as_json(value), json.loads), (as_yaml(value), yaml.safe_load)):
        assert back(text) == value
        assert not set(text) & set("\x1b\x9b\x07\r\x00\x7f\x85\u202e\u2066\u2028")


def test_sizes_are_for_people() -> None:
    assert [size(0), size(1536), size(3 << 30)] == ["0 B", "1.5 KiB", "3.0 GiB"]


@pytest.mark.parametrize("words", [["--help"], ["logs", "--help"], ["nope"], ["--version"]])
def test_help_loads_none_of_the_slow_libraries(words: list[str]) -> None:
    """bench/cli.py measures it."""
    code = (
        "import sys\n"
        "from orca.main import cli\n"
        "try: cli(prog_name='orca')\n"
        "except SystemExit: pass\n"
        "slow = {'grpc', 'aiohttp', 'pydantic', 'docker', 'asyncio', 'yaml', 'psutil', 'msgspec'}\n"
        f"if {words} == ['logs', '--help']: slow -= {{'aiohttp', 'asyncio', 'yaml', 'psutil'}}\n"
        "print(sorted(slow & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], check=True, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
