"""Files that describe services: JSON, TOML or YAML."""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import yaml

from orca.show import clean_lines

MAX_BYTES = 4 << 20
_TOML = re.compile(r"(?:\s|#[^\n]*\n)*(?:\[{1,2}\s*[A-Za-z_][\w.-]*\s*\]|[\w.-]+\s*=)")


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors, aliases and tags: a file of a few lines cannot become a gigabyte."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"an alias in line {mark.line + 1}: write the values out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {key!r} is not text: put it in quotes")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} comes twice in one mapping")
        return super().construct_mapping(node, deep)


def read_services(path: str) -> list[dict[str, Any]]:
    """The services of a JSON, TOML or YAML file (`-`: standard input): one, a list, or
    `{services: […]}`. Raises click.UsageError.
    """
    try:
        text = sys.stdin.read(MAX_BYTES + 1) if path == "-" else _read(Path(path))
        if len(text) > MAX_BYTES:
            raise click.UsageError(f"{path}: more than {MAX_BYTES >> 20} MiB")
        found = _parse(path, text)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise click.UsageError(f"{path}: not valid: {clean_lines(str(error))}") from error
    if isinstance(found, dict) and "services" in found:
        found = found["services"]
    elif isinstance(found, dict) and "service" in found:
        found = found["service"]
    services = found if isinstance(found, list) else [found]
    if not all(isinstance(item, dict) for item in services):
        raise click.UsageError(f"{path}: a service is an object with name, image, replicas …")
    return services


def _read(path: Path) -> str:
    with path.open() as file:
        return file.read(MAX_BYTES + 1)


def _parse(path: str, text: str) -> Any:
    match _form(path, text):
        case "toml":
            return tomllib.loads(text)
        case "json":
            return json.loads(text)
        case _:
            return yaml.load(text, Loader=_PlainLoader)


def _form(path: str, text: str) -> str:
    """By the name's ending; where that says nothing, as on standard input, by the beginning."""
    known = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}
    if named := known.get(Path(path).suffix.lower()):
        return named
    if _TOML.match(text):
        return "toml"
    return "json" if text.lstrip()[:1] in ("{", "[") else "yaml"
