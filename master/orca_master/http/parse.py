"""What comes in, checked: query parameters and bodies against their types, every mistake at once."""

from collections.abc import Mapping

import pydantic
from pydantic import BaseModel

from orca_master.errors import Invalid, Problem


def parse_query(model: type[BaseModel], query: Mapping[str, str]) -> BaseModel:
    """Raises Invalid."""
    try:
        return model.model_validate(dict(query))
    except pydantic.ValidationError as error:
        raise Invalid(_problems(error, "query")) from error


def parse_body(model: type[BaseModel] | None, raw: bytes) -> BaseModel | None:
    """None where the route takes no body. Raises Invalid."""
    if model is None:
        return None
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
