"""What comes in, checked: query parameters and bodies against their types, every mistake at once."""

from collections.abc import Mapping, Sequence

import pydantic
from pydantic import BaseModel

from orca_master.errors import Invalid, Problem
from orca_master.http.strict import check_json


def parse_query(model: type[BaseModel], query: Mapping[str, Sequence[str]]) -> BaseModel:
    """Raises Invalid. A parameter that comes twice is refused: programs differ in which one they take."""
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
