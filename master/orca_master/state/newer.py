"""Rows that a newer master wrote: what this one does not know of them is kept when it changes them.

msgspec drops unknown fields when it decodes. So when a row is written over an older one, the fields
of the old bytes that the row's type does not know are carried over, in nested structs too.
"""

from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def keep_unknown(kind: type[msgspec.Struct], before: bytes, after: bytes) -> bytes:
    """The bytes `after`, with the fields of `before` that `kind` does not know."""
    old, new = msgspec.msgpack.decode(before), msgspec.msgpack.decode(after)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return after
    if not _carry(kind, old, new):
        return after
    return before if new == old else _encoder.encode(new)


def _carry(kind: type[msgspec.Struct], old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether anything was carried over into `new`."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    carried = False
    for name, value in old.items():
        if name not in known:
            new[name] = value
            carried = True
            continue
        inner = _struct_of(known[name])
        if inner is None or not isinstance(value, dict):
            continue
        # A struct that equals its default is left out of the bytes: it may have to come back.
        written = new.get(name, {})
        if isinstance(written, dict) and _carry(inner, value, written):
            new[name] = written
            carried = True
    return carried


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct in a field's type: itself, or the one alternative to None."""
    if get_origin(kind) in (Union, UnionType):
        structs = [_struct_of(part) for part in get_args(kind)]
        return next((struct for struct in structs if struct is not None), None)
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None
