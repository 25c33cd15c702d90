"""Configuration: a TOML file, then `ORCA_…` environment variables, then flags; the last one wins.

Unknown keys are errors, and all mistakes are reported at once.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

M = TypeVar("M", bound=BaseModel)


class ConfigModel(BaseModel):
    """The base of a daemon's configuration. Values from the environment are converted from text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BadConfig(Exception):
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
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values.update(tomllib.loads(file.read_text()))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise BadConfig(f"{file}: {error}") from error
    for name, value in environ.items():
        if name.startswith(prefix):
            values[name.removeprefix(prefix).lower()] = _split(model, name, value, prefix)
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        lines = []
        for item in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in item["loc"])
            known = ", ".join(model.model_fields)
            unknown = item["type"] == "extra_forbidden"
            said = f"is not a setting (known: {known})" if unknown else item["msg"]
            lines.append(f"{where}: {said}")
        raise BadConfig("\n".join(lines)) from error


def _split(model: type[BaseModel], name: str, value: str, prefix: str) -> Any:
    """Lists are written with commas in the environment."""
    field = model.model_fields.get(name.removeprefix(prefix).lower())
    if field is not None and "list" in str(field.annotation):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value
