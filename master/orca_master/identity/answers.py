"""What the endpoints of tokens answer."""

import msgspec


class TokenOut(msgspec.Struct, frozen=True):
    """Without the secret. Times in Unix seconds; `project` null: all of them."""

    id: str
    name: str
    role: str
    project: str | None
    created_at: float
    expires_at: float | None
    expired: bool


class TokensOut(msgspec.Struct, frozen=True):
    """By name."""

    tokens: list[TokenOut]


class NewTokenOut(TokenOut, frozen=True, kw_only=True):
    """`token`: the secret, which is shown this once."""

    token: str
