"""Files that describe services. FAULTS IN-26 is here."""

import io
from pathlib import Path

import click
import pytest

from orca.manifests import read_services


def read(folder: Path, name: str, text: str) -> list[dict[str, object]]:
    file = folder / name
    file.write_text(text)
    return read_services(str(file))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"services": [{"name": "web", "replicas": 2}]}'),
        ("a.json", '[{"name": "web", "replicas": 2}]'),
        ("a.json", '{"name": "web", "replicas": 2}'),
        ("a.toml", '[[service]]\nname = "web"\nreplicas = 2\n'),
        ("a.yaml", "services:\n  - name: web\n    replicas: 2\n"),
        ("a.yml", "name: web\nreplicas: 2\n"),
    ],
)
def test_every_form_says_the_same(tmp_path: Path, name: str, text: str) -> None:
    assert read(tmp_path, name, text) == [{"name": "web", "replicas": 2}]


@pytest.mark.parametrize(
    "text",
    [
        '{"services": [{"name": "web", "replicas": 2}]}',
        ' [{"name": "web", "replicas": 2}]',
        '# what runs\n\n[[service]]\nname = "web"\nreplicas = 2\n',
        'name = "web"\nreplicas = 2\n',
        "# what runs\nname: web\nreplicas: 2\n",
        "- name: web\n  replicas: 2\n",
    ],
)
def test_standard_input_may_have_any_form(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert read_services("-") == [{"name": "web", "replicas": 2}]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "not valid"),
        ("a.json", '"web"', "is an object"),
        ("a.toml", "name = ", "not valid"),
        ("a.yaml", "a: [", "not valid"),
        ("a.yaml", "name: web\nname: other\n", "comes twice"),
        ("a.yaml", "env: {1: x}\n", "put it in quotes"),
        ("a.yaml", "a: &x [1]\nb: *x\n", "an alias in line 2"),
        ("a.yaml", "!!python/object/apply:os.system ['id']\n", "not valid"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        read(tmp_path, name, text)


def test_a_bomb_of_aliases_is_refused_at_once_in_26(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(click.UsageError, match="an alias"):
        read(tmp_path, "a.yaml", "\n".join(lines))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="more than"):
        read(tmp_path, "a.json", " " * (5 << 20))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="No such file"):
        read_services(str(tmp_path / "none.json"))
