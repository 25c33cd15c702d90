"""What comes in about secrets: values, and files of services that hold them."""

import base64
import binascii
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema, field_validator

from orca_master.errors import Invalid, Problem
from orca_master.http.names import Name
from orca_master.http.route import StrictModel
from orca_master.http.scopes import ScopeQuery
from orca_master.identity.secrets import templates
from orca_master.services.container import is_within
from orca_master.tasks.model import SecretFile

FOLDER = "/run/secrets"
MOST_FILES = 64
MOST_REFERENCES = 1000
MOST_CONTENT = 64 << 10
FILE_PATTERN = r"^/run/secrets(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){1,8}$"

_FILE = re.compile(FILE_PATTERN, re.ASCII)


def check_file(value: str) -> str:
    if not _FILE.fullmatch(value):
        raise ValueError(f"must be a path below {FOLDER}, such as {FOLDER}/db/password")
    return value


def _check_content(value: str) -> str:
    templates.keys([value])
    return value


Key = Annotated[
    str,
    AfterValidator(templates.check_key),
    WithJsonSchema({"type": "string", "pattern": templates.KEY_PATTERN}),
]


class SecretFileIn(StrictModel):
    """A file in memory, read-only: all of a secret, or a text with `${secrets.KEY}` in it."""

    path: Annotated[
        str,
        AfterValidator(check_file),
        WithJsonSchema({"type": "string", "pattern": FILE_PATTERN}),
        Field(description="Below `/run/secrets`; a plain process finds it below `$ORCA_SECRETS`."),
    ]
    secret: Annotated[Key | None, Field(description="The file is this secret's value.")] = None
    content: Annotated[
        str | None,
        Field(max_length=MOST_CONTENT, description="A text with `${secrets.KEY}` in it."),
        AfterValidator(lambda value: value if value is None else _check_content(value)),
    ] = None
    mode: Annotated[
        str, Field(pattern="^0?[0-7]{3}$", description="In octal digits, such as 0400.")
    ] = "0444"

    @field_validator("mode")
    @classmethod
    def _check_mode(cls, mode: str) -> str:
        if int(mode, 8) & 0o222:
            raise ValueError("must not let anybody write, such as 0400 or 0444")
        return mode

    def row(self) -> SecretFile:
        return SecretFile(
            posixpath.relpath(self.path, FOLDER),
            self.secret or "",
            self.content or "",
            int(self.mode, 8),
        )


def file_mistakes(
    files: Sequence[SecretFileIn], told: Iterable[str], targets: Iterable[str]
) -> list[str]:
    """What does not fit together. `told`: texts that stand in process lists; `targets`: of mounts."""
    mistakes = []
    paths = [file.path for file in files]
    for file in files:
        if (file.secret is None) == (file.content is None):
            mistakes.append(f"{file.path}: give either secret or content")
        if paths.count(file.path) > 1:
            mistakes.append(f"{file.path} is given twice")
        if any(path.startswith(file.path + "/") for path in paths):
            mistakes.append(f"{file.path} cannot be a file and a folder")
    if files:
        mistakes += [
            f"{target} is where files with secrets are: choose another target"
            for target in targets
            if is_within(target, FOLDER)
        ]
    mistakes += _told_mistakes(told)
    return list(dict.fromkeys(mistakes))


def _told_mistakes(texts: Iterable[str]) -> list[str]:
    try:
        named = templates.keys(texts)
    except templates.BadReference as error:
        return [f"command: {error}"]
    return [
        f"secret {key} is in a command, which everybody on the machine can read:"
        " give it in env or files, and let the program read it there"
        for key in sorted(named)
    ]


class SecretIn(StrictModel):
    """A value. Without a project it is for all projects."""

    value: Annotated[SecretStr, Field(description="1 byte to 64 KiB. It is never shown again.")]
    encoding: Annotated[
        str, Field(pattern="^(text|base64)$", description="`base64`: for what is no text.")
    ] = "text"
    project: Name | None = None
    roll: Annotated[
        bool, Field(description="Roll out the services that use it, so that they get this value.")
    ] = True

    def raw(self) -> bytes:
        """Raises Invalid."""
        text = self.value.get_secret_value()
        if self.encoding == "text":
            return text.encode()
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise Invalid([Problem("value", "is not base64")]) from None


class RemoveQuery(ScopeQuery):
    force: Annotated[
        bool,
        Field(description="Also while it is used: replicas that start from then on will fail."),
    ] = False
