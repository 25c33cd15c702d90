"""What comes in about registries: accounts."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from orca_master.http.names import Name
from orca_master.http.route import StrictModel

MOST_USERNAME = 256
MOST_PASSWORD = 16 << 10
"""Some clouds give keys, as JSON, for passwords."""


def _check_username(value: str) -> str:
    if ":" in value or not value.isprintable():
        raise ValueError("must not hold a colon or control characters")
    return value


def _check_password(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not 0 < len(text.encode()) <= MOST_PASSWORD:
        raise ValueError(f"must have 1 byte to {MOST_PASSWORD >> 10} KiB")
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return value


class RegistryIn(StrictModel):
    """An account. Without a project it is for all projects."""

    username: Annotated[
        str,
        Field(min_length=1, max_length=MOST_USERNAME, description="Without a colon."),
        AfterValidator(_check_username),
    ]
    password: Annotated[
        SecretStr,
        Field(description="Or a token, as the registry has it. It is never shown again."),
        AfterValidator(_check_password),
    ]
    project: Name | None = None
    check: Annotated[
        bool, Field(description="Ask the registry first, and refuse what it does not let in.")
    ] = True
