"""The dialects' envelopes and errors as JSON Schema, for the document. `dialects` makes the real ones."""

from typing import Any

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}


def _record(properties: Schema, optional: Schema | None = None, description: str = "") -> Schema:
    told: Schema = {"description": description} if description else {}
    return told | {
        "type": "object",
        "required": list(properties),
        "properties": {**properties, **(optional or {})},
    }


_PROBLEMS: Schema = {
    "type": "array",
    "description": "Each mistake of an invalid request.",
    "items": _record({"field": _STRING, "message": _STRING}),
}
_SENTENCE: Schema = {"type": "string", "description": "One sentence, for people."}
_WORD: Schema = {"type": "string", "description": "One word, for programs."}
_META: Schema = _record({"requestId": _STRING, "timestamp": {"type": "string"}})
_PAGINATION: Schema = _record(
    {
        **{name: {"type": "integer"} for name in ("page", "pageSize", "totalItems", "totalPages")},
        **{name: {"type": "boolean"} for name in ("hasNext", "hasPrevious")},
    }
)

ERRORS: dict[str, Schema] = {
    "cluster": _record(
        {"error": _SENTENCE, "code": _WORD, "request_id": _STRING}, {"problems": _PROBLEMS}
    ),
    "control": _record(
        {
            "success": {"const": False},
            "error": _record(
                {"code": _WORD, "message": _SENTENCE},
                {
                    "validationErrors": {
                        **_PROBLEMS,
                        "items": _record({"field": _STRING, "message": _STRING, "code": _WORD}),
                    }
                },
            ),
            "meta": _META,
        }
    ),
    "dag": _record(
        {
            "error": _record(
                {"code": _WORD, "message": _SENTENCE, "trace_id": _STRING}, {"details": _PROBLEMS}
            )
        }
    ),
    "ops": _record({"success": {"const": False}, "error": _SENTENCE}),
}
"""By the dialect's name."""


def error_name(dialect: str) -> str:
    """What the schema of the dialect's errors is called in the document."""
    return f"{dialect.capitalize()}Error"


def success(dialect: str, value: Schema, *, is_page: bool) -> Schema:
    """A handler's result as it is sent. `is_page`: `value` is one of a list's items."""
    items: Schema = {"type": "array", "items": value}
    if dialect == "dag" and is_page:
        return _record({"items": items, "next_page_token": {"type": ["string", "null"]}})
    if dialect == "ops":
        return _record({"success": {"const": True}, "data": items if is_page else value})
    if dialect == "control":
        meta = _META
        if is_page:
            properties: Schema = {**_META["properties"], "pagination": _PAGINATION}
            meta = _record(properties)
        data = items if is_page else value
        return _record({"success": {"const": True}, "data": data, "meta": meta})
    return value
