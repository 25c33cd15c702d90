"""import: service files from files of other tools."""

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from orca import show
from orca.compose import convert, interpolation
from orca.show import clean_lines

MAX_BYTES = 4 << 20


@click.group("import")
def import_() -> None:
    """Make service files from files of other tools."""


@import_.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("-o", "--output", "folder", metavar="DIR", help="A file for each service, in DIR.")
@click.option("-p", "--project", help="Of all services; else the file's name:, else default.")
@click.option("--profile", "profiles", multiple=True, help="Take its services too ('*': all).")
@click.option(
    "--image", "images", multiple=True, metavar="NAME=IMAGE", help="For one that is built."
)
def compose(
    file: str,
    folder: str | None,
    project: str | None,
    profiles: tuple[str, ...],
    images: tuple[str, ...],
) -> None:
    """Write what `orca deploy` takes from the Docker Compose FILE (`-`: standard input).

    Standard error tells what could not be carried, with its path. Variables come from the environment and
    from the .env beside FILE. Exits with 1 if a service could not be written.

    \b
    orca import compose compose.yaml > services.yaml
    orca plan services.yaml
    """
    given = dict(each.split("=", 1) for each in images if "=" in each)
    if len(given) != len(images):
        raise click.UsageError("--image is NAME=IMAGE")
    path = Path(file)
    beside = (Path.cwd() if file == "-" else path.absolute().parent).resolve()
    unset = _Unset()
    try:
        variables = _variables(beside, unset)
        tree = interpolation.all_substituted(_parsed(file), variables, unset.note)
        source = convert.Source(str(beside), variables, _reader(beside, variables, unset))
        found = convert.converted(tree, source, project=project, profiles=profiles, images=given)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise click.UsageError(f"{file}: not valid: {clean_lines(str(error))}") from error
    for name, where in unset.where.items():
        found.notes.insert(0, f"{where}: variable {name} is not set, and empty")
    _write(found.services, folder)
    for note in found.notes:
        show.say(note, err=True)
    for failure in found.failed:
        show.error(failure)
    sys.exit(1 if found.failed else 0)


def _parsed(file: str) -> Any:
    text = sys.stdin.read(MAX_BYTES + 1) if file == "-" else _read(Path(file))
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
    return yaml.load(text, Loader=_Loader)


def _read(path: Path) -> str:
    with path.open() as file:
        return file.read(MAX_BYTES + 1)


def _variables(folder: Path, unset: "_Unset") -> dict[str, str]:
    """The environment goes before `.env`."""
    own = folder / ".env"
    if not own.is_file():
        return dict(os.environ)
    kept = interpolation.env_file(_read(own), os.environ, partial(unset.note, ".env"))
    return kept | dict(os.environ)


def _reader(folder: Path, variables: dict[str, str], unset: "_Unset") -> Any:
    def read(name: str) -> dict[str, str]:
        try:
            text = _read(folder / name)
        except OSError as error:
            raise ValueError(error.strerror) from None
        return interpolation.env_file(text, variables, partial(unset.note, name))

    return read


def _write(services: list[dict[str, Any]], folder: str | None) -> None:
    if folder is None:
        click.echo(_yaml({"services": services}), nl=False)
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for service in services:
            Path(folder, f"{service['name']}.yaml").write_text(_yaml(service))
    except OSError as error:
        raise click.UsageError(f"{folder}: {error.strerror}") from error


class _Unset:
    """Variables without a value: where each was first asked for."""

    def __init__(self) -> None:
        self.where: dict[str, str] = {}

    def note(self, where: str, name: str) -> None:
        self.where.setdefault(name, where)


class _Loader(yaml.SafeLoader):
    """Scalars as compose reads them: `22:22` is a text, and so are `no`, `0440` and dates."""


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [each for each in known if each[0] in (f"{_TAG}null", f"{_TAG}merge")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?[0-9]+\.[0-9]+$", "-+0123456789"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(_pattern), list(_first))


class _Dumper(yaml.SafeDumper):
    """Without anchors, which service files refuse."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
