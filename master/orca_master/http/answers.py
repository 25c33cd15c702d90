"""Answers that several slices give."""

import msgspec


class Ok(msgspec.Struct, frozen=True):
    """`ok`: what was done, in words."""

    ok: str
