"""Where a task may run, and where it would rather: rules over a node's labels. Pure.

A rule is written as one of

    disk = ssd      disk != hdd      gpu exists      gpu not exists
    zone in (a, b)  zone not in (a, b)               cores > 4      age < 2.5

A node's own facts are labels too: `node.id`, `node.name`, `node.os`, `node.architecture`. A node
without the label fits `!=`, `not in` and `not exists` only.
"""

import re
from collections.abc import Mapping

import msgspec

_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9._:/-]{0,98}[A-Za-z0-9])?"
_NUMBER = r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?"
_FORMS = (
    re.compile(rf"(?P<key>{_KEY}) *(?P<op>=|!=) *(?P<values>{_VALUE})", re.ASCII),
    re.compile(rf"(?P<key>{_KEY}) *(?P<op>[<>]) *(?P<values>{_NUMBER})", re.ASCII),
    re.compile(
        rf"(?P<key>{_KEY}) +(?P<op>in|not in) *\((?P<values> *{_VALUE}(?: *, *{_VALUE}){{0,31}} *)\)",
        re.ASCII,
    ),
    re.compile(rf"(?P<key>{_KEY}) +(?P<op>exists|not exists)(?P<values>)", re.ASCII),
)
LABEL_KEY = re.compile(_KEY, re.ASCII)
LABEL_VALUE = re.compile(_VALUE, re.ASCII)


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """`op`: = != in, not in, exists, not exists, < or >; `values` has as many as it needs."""

    key: str
    op: str
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.op in ("in", "not in"):
            return f"{self.key} {self.op} ({', '.join(self.values)})"
        return " ".join((self.key, self.op, *self.values))


class Affinity(msgspec.Struct, frozen=True, omit_defaults=True):
    """A weight of 100 outweighs one replica that is already there; a negative one keeps away."""

    rule: Rule
    weight: int


class Constraints(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a task may run, what is set aside for it, and what makes one node better than another.

    `node` is an id or an exact name; `labels` must be equal; every one of `rules` must hold.
    `distinct_hosts`: never two of one owner and revision on a node. `spread`: a label over whose
    values the replicas are spread. `pack`: prefer the fullest node that fits. `memory_bytes` None:
    its limit is set aside; `cpu_millis` is set aside beside the limit, which is none.
    """

    node: str = ""
    labels: dict[str, str] = {}
    rules: tuple[Rule, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    distinct_hosts: bool = False
    spread: str = ""
    pack: bool = False
    memory_bytes: int | None = None
    cpu_millis: int = 0


def parse_rule(text: str) -> Rule:
    """Raises ValueError with how a rule is written."""
    for form in _FORMS:
        match = form.fullmatch(text.strip())
        if match:
            values = [value.strip() for value in match["values"].split(",")]
            return Rule(match["key"], match["op"], tuple(value for value in values if value))
    raise ValueError(
        "must be a rule such as `disk = ssd`, `disk != hdd`, `zone in (a, b)`, `zone not in (a, b)`,"
        " `gpu exists`, `gpu not exists`, `cores > 4` or `cores < 8`"
    )


def holds(rule: Rule, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels fits. What is no number is neither above nor below one."""
    value = labels.get(rule.key)
    match rule.op:
        case "exists":
            return value is not None
        case "not exists":
            return value is None
        case "=" | "in":
            return value in rule.values
        case "!=" | "not in":
            return value not in rule.values
    number = _number(value)
    if number is None:
        return False
    bound = float(rule.values[0])
    return number < bound if rule.op == "<" else number > bound


def _number(value: str | None) -> float | None:
    if value is None or not re.fullmatch(_NUMBER, value, re.ASCII):
        return None
    return float(value)
