"""Trace ids: a caller's, or our own."""

import pytest

from orca_common.real import real_env
from orca_master.http.trace import trace_id, traceparent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OWN = "0" * 16 + "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-00",
        f"cc-{TRACE}-00f067aa0ba902b7-01-what-is-to-come",
    ],
)
def test_a_valid_header_is_followed(header: str) -> None:
    assert trace_id(header, "00f067aa0ba902b7") == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-00f067aa0ba902b7-01\r\nX: y",
        "00-" + "1" * 5000,
    ],
)
def test_any_other_is_replaced(header: str | None) -> None:
    assert trace_id(header, "00f067aa0ba902b7") == OWN


def test_what_goes_out_belongs_to_the_same_trace() -> None:
    header = traceparent(real_env(), TRACE)
    assert trace_id(header, "x") == TRACE
    assert header != traceparent(real_env(), TRACE), "each request is a span of its own"
