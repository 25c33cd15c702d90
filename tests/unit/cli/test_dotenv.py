"""Files of KEY=value lines, as `orca secrets import` reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca.commands.secrets import read_dotenv

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cc", "Zl", "Zp", "Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  export  A = b c  ", "b c"),
        ("A=b # why", "b"),
        ("A=b#c", "b#c"),
        ("A='b # \"c\" \\n'", 'b # "c" \\n'),
        ('A="b\\nc\\t\\"d\\"\\\\" # why', 'b\nc\t"d"\\'),
        ('A="b\nc"', "b\nc"),
        ("A=${secrets.B} $HOME", "${secrets.B} $HOME"),
        ("A=b=c", "b=c"),
    ],
)
def test_a_line_means(line: str, value: str) -> None:
    assert list(read_dotenv(f"# first\n\n{line}\n")) == [("A", value)]


@given(NAMES, VALUES)
def test_what_is_quoted_is_read_as_it_was(name: str, value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert list(read_dotenv(f'{name}="{quoted}"\n')) == [(name, value)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hunter2", "line 1 is not KEY=value"),
        ("\n1A=hunter2", "line 2 is not KEY=value"),
        ("A='hunter2", "line 1: the quote of A is not closed"),
        ("A='x' hunter2", "behind a closing quote"),
        ("A=", "A is empty"),
    ],
)
def test_what_is_no_line_is_told_without_values(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        list(read_dotenv(text))
    assert "hunter2" not in str(refused.value)
