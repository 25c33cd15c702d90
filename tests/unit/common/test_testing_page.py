"""The page about testing lists the tests that there are, and all that are named after a case."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/testing.md").read_text()
CASE = re.compile(r"_(c[ole])_(\d\d)")


def names_in(files: str) -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob(files)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def named_tests() -> dict[str, set[str]]:
    """Tests named after cases, with these cases (`CO-01`)."""
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and CASE.search(node.name):
                cases = {f"{group.upper()}-{n}" for group, n in CASE.findall(node.name)}
                found[node.name] = cases
    return found


def listed_tests() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for case, tests in re.findall(r"^\| (C[OLE]-\d\d) \|[^|]*\| ([^|]*) \|$", PAGE, re.MULTILINE):
        for test in re.findall(r"`(\w+)`", tests):
            found.setdefault(test, set()).add(case)
    return found


def test_every_test_named_after_a_case_is_listed_at_it_and_no_other_is() -> None:
    assert listed_tests() == named_tests()


def test_every_case_has_a_test_or_says_what_it_waits_for() -> None:
    rows = re.findall(r"^\| (C[OLE]-\d\d[^|]*) \|[^|]*\| ([^|]*) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 40
    assert [case for case, tests in rows if not tests.startswith(("`", "later: "))] == []


def test_what_others_get_wrong_is_shown_by_tests_that_there_are() -> None:
    listed = set(re.findall(r"`(test_\w+)`", PAGE.partition("\n## What others get wrong\n")[2]))
    assert listed - names_in("test_*.py") == set()
    assert names_in("test_peers*.py") - listed == set()


def test_every_group_of_the_long_search_is_told() -> None:
    makefile = (ROOT / "Makefile").read_text()
    groups = re.search(r"^CHAOS_GROUPS := (.*)$", makefile, re.MULTILINE)
    assert groups is not None
    assert [group for group in groups[1].split() if f"| `{group}` |" not in PAGE] == []
