"""What `${secrets.KEY}` means in a text, for every text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_master.identity.secrets import templates

KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
PIECES = st.sampled_from(
    [
        "$",
        "$$",
        "{",
        "}",
        "${secrets.",
        "$${secrets.",
        "{secrets.",
        "A}",
        "secrets.",
        "x",
        "\n",
        "é",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES).map("".join))


@given(TEXTS)
def test_every_text_can_be_written_literally(text: str) -> None:
    written = templates.escaped(text)
    assert templates.keys([written]) == set()
    assert templates.expanded(written, lambda key: f"value of {key}") == text


@given(TEXTS, KEYS, TEXTS, TEXTS)
def test_a_value_stands_where_it_is_named_and_is_not_looked_at_again_in_10(
    before: str, key: str, after: str, value: str
) -> None:
    # A dollar right before the reference would be read with it, unless it is a pair.
    written = templates.escaped(before)
    dollars = len(written) - len(written.rstrip("$"))
    written += "$" * dollars + "${secrets." + key + "}" + templates.escaped(after)
    assert templates.keys([written]) == {key}
    assert templates.expanded(written, lambda _: value) == before + value + after


@given(TEXTS)
def test_a_text_is_expanded_or_refused_for_what_it_says(text: str) -> None:
    try:
        named = templates.keys([text])
    except templates.BadReference:
        assert "${secrets." in text
        return
    assert all(map(templates.is_key, named))
    asked: list[str] = []
    templates.expanded(text, lambda key: asked.append(key) or "")
    assert set(asked) == named


@pytest.mark.parametrize("piece", ["$", "{secrets.", "$${secrets.", "${secrets.A}"])
def test_a_long_text_is_read_in_one_go(piece: str) -> None:
    """A hang guard: what looks back from each character would take hours."""
    text = piece * (1_000_000 // len(piece)) + "$${secrets.A}"
    assert len(templates.expanded(text, lambda _: "")) < len(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("$${secrets.X}", "${secrets.X}"),  # IN-12
        ("$$${secrets.X}", "$V"),
        ("$$$${secrets.X}", "$${secrets.X}"),
        ("a $$ b ${HOME} $${HOME}", "a $$ b ${HOME} $${HOME}"),
        ("${secrets.X}${secrets.X}", "VV"),
        ("${SECRETS.X}", "${SECRETS.X}"),
    ],
)
def test_dollars_in_12(text: str, meant: str) -> None:
    assert templates.expanded(text, lambda _: "V") == meant


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("${secrets.${secrets.A}}", "names no key"),  # IN-10
        ("${secrets.other.KEY}", "another project"),
        ("${secrets.OTHER_TENANT/KEY}", "another project"),  # IN-11
        ("${secrets.../KEY}", "another project"),
        ("${secrets.}", "names no key"),
        ("${secrets.A B}", "names no key"),
        ("${secrets.1A}", "names no key"),
        ("${secrets." + "A" * 129 + "}", "names no key"),
        ("${secrets.A", "is not closed"),
        ("${secrets.É}", "names no key"),
    ],
)
def test_in_11_what_names_no_key_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(templates.BadReference, match=why) as refused:
        templates.keys([text])
    assert len(str(refused.value)) < 300
