"""What the document says of envelopes and errors, against what the dialects really make."""

from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from documented import closed
from orca_master.errors import Invalid, NotFound, OrcaError, Problem, RateLimited
from orca_master.http.dialects import (
    CLUSTER,
    CONTROL,
    DAG,
    OPS,
    Continued,
    Dialect,
    Exchange,
    Numbered,
    Page,
    Window,
)
from orca_master.http.forms import ERRORS, success
from orca_master.http.openapi import document
from orca_master.http.pages import ContinuedQuery, NumberedQuery, WindowQuery
from orca_master.http.rates import Rate
from orca_master.http.responses import statuses
from orca_master.http.route import Call, NoQuery, Open, QueryModel, Route, StrictModel

EXCHANGE = Exchange("r1", "0" * 32, 1.5, "/tasks", "limit=2")
DIALECTS: list[Dialect] = [CLUSTER, CONTROL, DAG, OPS]
ITEM = {"type": "integer"}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "error",
    [Invalid([Problem("a", "is wrong")]), NotFound("task", "t"), OrcaError("fault")],
    ids=lambda error: type(error).__name__,
)
def test_errors_have_the_form_that_is_told(dialect: Dialect, error: OrcaError) -> None:
    form = Draft202012Validator(closed(ERRORS[dialect.name]))
    form.validate(dialect.error(error, EXCHANGE))
    others = [ERRORS[other.name] for other in DIALECTS if other is not dialect]
    told = dialect.error(error, EXCHANGE)
    assert not any(Draft202012Validator(closed(each)).is_valid(told) for each in others)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_results_have_the_form_that_is_told(dialect: Dialect) -> None:
    form = Draft202012Validator(closed(success(dialect.name, ITEM, is_page=False)))
    form.validate(dialect.success(7, EXCHANGE))


@pytest.mark.parametrize(
    ("dialect", "page"),
    [
        (CONTROL, Page([3, 4], Numbered(2, 2, 5))),
        (DAG, Page([3, 4], Continued(None))),
        (DAG, Page([3, 4], Continued("x"))),
        (OPS, Page([3, 4], Window(2, 0, 5))),
    ],
)
def test_pages_have_the_form_that_is_told(dialect: Dialect, page: Page) -> None:
    form = Draft202012Validator(closed(success(dialect.name, ITEM, is_page=True)))
    form.validate(dialect.success(page, EXCHANGE))


class Thing(msgspec.Struct, frozen=True):
    id: str


class Same(StrictModel):
    id: str


async def nothing(call: Call[Any, Any]) -> object:
    return None


def a_route(dialect: Dialect, query: type[QueryModel] = NoQuery, **options: Any) -> Route:
    return Route("GET /things", Open.PUBLIC, nothing, "", dialect=dialect, query=query, **options)


@pytest.mark.parametrize(
    ("dialect", "query", "of_pages"),
    [
        (CONTROL, NumberedQuery, set()),
        (DAG, ContinuedQuery, set()),
        (OPS, WindowQuery, {"X-Total-Count", "X-Limit", "X-Offset", "Link"}),
    ],
)
def test_a_list_of_another_family_is_told_in_its_own_form(
    dialect: Dialect, query: type[QueryModel], of_pages: set[str]
) -> None:
    made = document([a_route(dialect, query, answer=Thing, rate=Rate.OPS)], version="1")
    responses = made.paths["/things"]["get"]["responses"]
    content = responses["200"]["content"]["application/json"]["schema"]
    assert content == success(dialect.name, {"$ref": "#/components/schemas/Thing"}, is_page=True)
    limits = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
    assert set(responses["200"]["headers"]) == {"X-Request-Id"} | limits | of_pages
    assert set(responses["429"]["headers"]) == {"X-Request-Id", "Retry-After"} | limits
    name = f"{dialect.name.capitalize()}Error"
    error = responses["429"]["content"]["application/json"]["schema"]
    assert error == {"$ref": f"#/components/schemas/{name}"}
    assert made.components["schemas"][name] == ERRORS[dialect.name]


def test_statuses_are_the_dialects() -> None:
    assert {400, 422} & statuses(a_route(CLUSTER)) == {400}
    assert {400, 422} & statuses(a_route(OPS)) == {422}
    assert {400, 422} & statuses(a_route(OPS, body=Same)) == {400, 422}
    assert 406 in statuses(a_route(OPS))
    assert 429 not in statuses(a_route(OPS))
    assert RateLimited.status in statuses(a_route(OPS, rate=Rate.OPS))


def test_two_schemas_of_one_name_are_refused() -> None:
    class Same(msgspec.Struct, frozen=True):
        id: str

    with pytest.raises(ValueError, match="two schemas are called Same"):
        document([a_route(CLUSTER, body=globals()["Same"], answer=Same)], version="1")
