"""Configuration: a TOML file, then `ORCA_…` environment variables, then flags; the last one wins.

Unknown keys are errors, and all mistakes are reported at once. Settings are msgspec structs: a worker
that only reads its settings need not hold a validation library for them (12 MB).
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

M = TypeVar("M", bound="ConfigModel")


class ConfigModel(msgspec.Struct, frozen=True, kw_only=True):
    """The base of a daemon's configuration. Values from the environment are converted from text."""


class BadConfig(ValueError):
    """The text lists every mistake, one a line."""


def load(
    model: type[M],
    *,
    file: Path | None,
    environ: Mapping[str, str],
    prefix: str,
    flags: Mapping[str, Any],
) -> M:
    """`prefix` is such as `ORCA_MASTER_`; flags that are None were not given.

    Raises BadConfig. A file that was named and does not exist is a mistake too.
    """
    fields = {field.name: field.type for field in msgspec.structs.fields(model)}
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values.update(tomllib.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise BadConfig(f"{file}: {error}") from error
    for variable, text in environ.items():
        if variable.startswith(prefix):
            name = variable.removeprefix(prefix).lower()
            values[name] = _split(fields.get(name), text)
    values.update({name: value for name, value in flags.items() if value is not None})
    settings: dict[str, Any] = {}
    mistakes = []
    for name, value in values.items():
        if name not in fields:
            mistakes.append(f"{name}: is not a setting (known: {', '.join(fields)})")
            continue
        try:
            settings[name] = msgspec.convert(value, fields[name], strict=False)
        except msgspec.ValidationError as error:
            mistakes.append(f"{name}: {error}")
    if mistakes:
        raise BadConfig("\n".join(mistakes))
    try:
        return model(**settings)
    except ValueError as error:  # of settings that do not fit each other
        raise BadConfig(str(error)) from error


def _split(wanted: Any, text: str) -> Any:
    """Lists are written with commas in the environment."""
    if getattr(wanted, "__origin__", None) is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
