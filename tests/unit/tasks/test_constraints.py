"""Rules over labels: how they are written, and what fits them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_node
from orca_master.tasks.constraints import Rule, holds, parse_rule

LABELS = {"disk": "ssd", "zone": "eu-1", "cores": "8", "empty": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("disk = ssd", True),
        ("disk=ssd", True),
        ("disk = hdd", False),
        ("disk != hdd", True),
        ("disk != ssd", False),
        ("none != x", True),
        ("none = x", False),
        ("zone in (eu-1, eu-2)", True),
        ("zone in (eu-2)", False),
        ("zone not in (eu-2,eu-3)", True),
        ("zone not in (eu-1)", False),
        ("none in (a)", False),
        ("none not in (a)", True),
        ("disk exists", True),
        ("empty exists", True),
        ("none exists", False),
        ("none not exists", True),
        ("disk not exists", False),
        ("cores > 7.5", True),
        ("cores > 8", False),
        ("cores < 8.1", True),
        ("cores < 8", False),
        ("disk > 1", False),
        ("disk < 1", False),
        ("none < 1", False),
        ("cores > -1", True),
    ],
)
def test_what_fits_a_rule(text: str, expected: bool) -> None:
    assert holds(parse_rule(text), LABELS) is expected


@pytest.mark.parametrize(
    "text",
    [
        "", "disk", "= ssd", "disk ssd", "disk == ssd", "zone in ()", "zone in (a", "zone in a",
        "cores > many", "cores > 1e9", "cores > nan", "disk = a b", "disk = ssd; rm", "disk exists x",
        "zone in (a,,b)", "cores >", "cores > ٣", "a" * 101 + " exists", "disk = ssd\nx exists",
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_with_how_it_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="must be a rule such as `disk = ssd`"):
        parse_rule(text)


words = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
rules = st.one_of(
    st.builds(lambda k, op, v: Rule(k, op, (v,)), words, st.sampled_from(["=", "!="]), words),
    st.builds(
        lambda k, op, v: Rule(k, op, tuple(v)),
        words,
        st.sampled_from(["in", "not in"]),
        st.lists(words, min_size=1, max_size=4),
    ),
    st.builds(Rule, words, st.sampled_from(["exists", "not exists"])),
    st.builds(
        lambda k, op, v: Rule(k, op, (str(v),)),
        words,
        st.sampled_from(["<", ">"]),
        st.integers(-(10**9), 10**9),
    ),
)


@given(rules)
def test_a_rule_reads_as_it_is_written(rule: Rule) -> None:
    assert parse_rule(str(rule)) == rule


@given(rules, st.dictionaries(words, words, max_size=3))
def test_each_rule_and_its_opposite_divide_all_nodes(rule: Rule, labels: dict[str, str]) -> None:
    opposite = {"=": "!=", "in": "not in", "exists": "not exists"}.get(rule.op)
    if opposite:
        assert holds(rule, labels) != holds(Rule(rule.key, opposite, rule.values), labels)


def test_what_people_say_of_a_node_wins_and_its_facts_cannot_be_changed() -> None:
    node = a_node("n1", labels={"disk": "hdd", "zone": "a", "node.name": "liar"})
    labels = type(node)(
        id=node.id, name=node.name, joined_at=1.0, facts=node.facts, labels={"disk": "ssd"}
    ).all_labels
    assert (labels["disk"], labels["zone"]) == ("ssd", "a")
    assert (labels["node.name"], labels["node.id"]) == ("n1", "id-n1")
