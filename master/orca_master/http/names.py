"""One grammar for the names of services, projects and nodes: a DNS label."""

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

_TEXT = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(_TEXT, re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DEVICES = {"con", "prn", "aux", "nul"}


def check_name(value: str) -> str:
    """Raises ValueError with what is wrong with the name."""
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 63 characters a-z, 0-9 and -, beginning and ending with a letter or digit"
        )
    if value.isdigit() or _UUID.fullmatch(value):
        raise ValueError("must not look like a number or a UUID, which name things by id")
    if value in _DEVICES:
        raise ValueError("is a reserved device name on some systems")
    return value


def is_name(value: str) -> bool:
    """Whether this could name, or identify, anything at all; for what stands in a path."""
    return _NAME.fullmatch(value) is not None


PART_SCHEMA = {"type": "string", "pattern": f"^{_TEXT}$"}
"""What a document says of what stands in a path: a name, or an id."""

SCHEMA = {
    "type": "string",
    "pattern": f"^(?![0-9]+$){_TEXT}$",
    "description": "1 to 63 characters a-z, 0-9 and `-`; no number.",
}
"""What a document says of a name; that it looks like no UUID and no device is checked besides."""

Name = Annotated[str, AfterValidator(check_name), WithJsonSchema(SCHEMA)]
