"""What comes in, checked: query parameters and bodies against their types, every mistake at once.

Queries are few and short, and models are frozen: what one says is worked out once.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import parse_qsl

import pydantic
from pydantic import BaseModel

from orca_master.errors import Invalid, Problem
from orca_master.http.strict import check_json

CONSISTENCY = "consistency"
"""The parameter that is the kit's own, on every route."""
KEPT = 256


@lru_cache(maxsize=KEPT)
def query_values(text: str) -> Mapping[str, Sequence[str]]:
    """What a query string says, still encoded, in the order in which it says it."""
    values: dict[str, list[str]] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        values.setdefault(name, []).append(value)
    return MappingProxyType(values)


@lru_cache(maxsize=KEPT)
def parse_query(model: type[BaseModel], text: str) -> BaseModel:
    """Raises Invalid. A parameter that comes twice is refused: programs differ in which one they take."""
    query = {name: values for name, values in query_values(text).items() if name != CONSISTENCY}
    twice = [name for name, values in query.items() if len(values) > 1]
    if twice:
        raise Invalid([Problem(f"query.{name[:80]}", "is given twice") for name in twice])
    try:
        return model.model_validate({name: values[0] for name, values in query.items()})
    except pydantic.ValidationError as error:
        raise Invalid(_problems(error, "query")) from error


def parse_body(model: type[BaseModel] | None, raw: bytes) -> BaseModel | None:
    """None where the route takes no body. Raises Invalid."""
    if model is None:
        return None
    if raw:
        check_json(raw)
    try:
        return model.model_validate_json(raw or b"{}")
    except pydantic.ValidationError as error:
        raise Invalid(_problems(error, "")) from error


def _problems(error: pydantic.ValidationError, prefix: str) -> list[Problem]:
    found = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "is not known here"
        found.append(Problem(".".join(filter(None, (prefix, where))), message))
    return found
