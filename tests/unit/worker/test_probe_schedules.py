"""What the answers to a probe add up to, and when it asks next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_proto import worker_pb2 as pb
from orca_worker.checks import EARLY_SECONDS, Check, Kind, what


def a_check(kind: Kind = Kind.READINESS, **fields: int) -> Check:
    probe = pb.Probe(
        path="/ready",
        interval_seconds=fields.get("interval", 10),
        failure_threshold=fields.get("failures", 3),
        success_threshold=fields.get("successes", 1),
    )
    return Check(kind, probe, 0.0)


def waits_of(check: Check, seconds: float) -> list[float]:
    """Of a start that takes so long, if answers come at once."""
    now, waits = check.began_at, []
    while now < check.began_at + seconds:
        waits.append(check.wait_seconds)
        now += check.wait_seconds
        check.take("refused", now)
    return waits


def test_while_starting_it_asks_often_and_then_at_its_interval() -> None:
    check = a_check()
    waits = waits_of(check, 30.0)
    assert waits[:8] == [0.025, 0.05, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2]
    assert waits[-1] == EARLY_SECONDS[-1]
    check.take(None, 31.0)
    assert (check.is_passing, check.wait_seconds) == (True, 10)


@given(st.floats(0.0, 1e6), st.floats(0.01, 600.0))
def test_a_start_takes_a_tenth_longer_or_a_fifth_of_a_second_and_is_asked_a_bounded_number_of_times(
    began_at: float, seconds: float
) -> None:
    check = a_check()
    check.began_at = check.answered_at = began_at
    waits = waits_of(check, seconds)
    assert waits[-1] <= max(0.2, 0.1 * seconds) * 1.001
    assert len(waits) <= 32 + seconds / EARLY_SECONDS[-1]


def test_a_command_costs_more_and_is_asked_less_often() -> None:
    check = Check(Kind.READINESS, pb.Probe(command=["true"], interval_seconds=10), 0.0)
    assert waits_of(check, 4.0) == [*EARLY_SECONDS, *[EARLY_SECONDS[-1]] * 4]


def test_the_interval_bounds_also_the_first_waits() -> None:
    probe = pb.Probe(interval_seconds=0.1)
    waits = [Check(Kind.READINESS, probe, 0.0, asked=n).wait_seconds for n in (0, 2, 9)]
    assert waits == [0.025, 0.1, 0.1]


def test_failures_of_a_start_are_counted_by_the_time() -> None:
    check = a_check(Kind.STARTUP, interval=10, failures=3)
    for at in (0.025, 0.075, 5.0, 29.9):
        check.take("refused", at)
        assert not check.has_failed
    assert check.complaint == "startup check http /ready: refused"
    check.take("refused", 30.0)
    assert check.has_failed
    assert check.complaint == "startup check http /ready: refused (for 30 s)"


def test_unready_after_so_many_failures_and_back_after_so_many_successes() -> None:
    check = a_check(failures=2, successes=2)
    said = []
    for failure in (None, None, "503", None, "503", "503", "503", None, None):
        check.take(failure, 1.0)
        said.append(check.is_passing)
    assert said == [False, True, True, True, True, False, False, False, True]


def test_a_complaint_counts_no_further_than_its_threshold() -> None:
    check = a_check()
    check.take(None, 0.0)
    said = []
    for _ in range(4):
        check.take("answered 503", 1.0)
        said.append(check.complaint.rpartition(": ")[2])
    assert said == [f"answered 503 ({n} of 3)" for n in (1, 2, 3, 3)]
    check.take(None, 2.0)
    assert (check.complaint, check.result) == ("", "readiness check http /ready: passed")


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_it_passes_and_fails_only_by_answers_in_a_row(
    answers: list[bool], failures: int, successes: int, early: bool
) -> None:
    check = a_check(failures=failures, successes=successes)
    check.early, check.is_passing = early, not early
    for number, answer in enumerate(answers, start=1):
        before = check.is_passing
        check.take(None if answer else "no", 0.0)
        if check.is_passing and not before:
            assert answers[number - successes : number] == [True] * successes
        if before and not check.is_passing:
            assert answers[number - failures : number] == [False] * failures


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (pb.Probe(path="/x"), "http /x"),
        (pb.Probe(tcp=True, port=5432), "tcp 5432"),
        (pb.Probe(command=["sh", "-c", "a b"]), "command sh -c 'a b'"),
        (pb.Probe(grpc=True), "grpc"),
        (pb.Probe(grpc=True, service="shop"), "grpc shop"),
    ],
)
def test_what_is_asked_is_named(probe: pb.Probe, words: str) -> None:
    assert what(probe) == words
