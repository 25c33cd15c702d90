"""Every planted fault is found: by a rule acted out by hand, or by a history of a few pinned seeds."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from sim.raft import mutations, scenarios
from sim.raft.history import History, Violation
from sim.raft.virtual import outcome_of

Mutation = Callable[[], AbstractContextManager[None]]
Scenario = Callable[[], None]


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda s: s.__name__)
def test_the_rule_holds(scenario: Scenario) -> None:
    scenario()


@pytest.mark.parametrize(
    ("mutation", "scenario"),
    [
        (mutations.the_vote_is_not_written, scenarios.a_vote_survives_a_power_loss),
        (mutations.a_vote_is_given_to_everybody, scenarios.a_vote_survives_a_power_loss),
        (
            mutations.entries_of_older_terms_are_committed_by_counting,
            scenarios.an_older_terms_entry_is_not_committed_by_counting,
        ),
        (mutations.answers_of_other_terms_count, scenarios.an_answer_of_another_term_is_ignored),
        (mutations.a_vote_that_comes_twice_counts_twice, scenarios.a_repeated_vote_counts_once),
        (
            mutations.entries_that_agree_are_removed_too,
            scenarios.entries_that_agree_stay_when_an_old_message_comes_late,
        ),
        (
            mutations.a_follower_claims_more_than_it_compared,
            scenarios.entries_that_agree_stay_when_an_old_message_comes_late,
        ),
    ],
    ids=lambda f: f.__name__,
)
def test_a_broken_rule_is_noticed(mutation: Mutation, scenario: Scenario) -> None:
    with mutation(), pytest.raises(scenarios.Broken):
        scenario()


@pytest.mark.parametrize(
    ("mutation", "seeds", "duplicates"),
    [
PINS
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_histories_find_what_is_broken(
    mutation: Mutation, seeds: tuple[int, ...], duplicates: bool
) -> None:
    """The same seeds find nothing when nothing is broken, so it is the fault that they find."""
    for seed in seeds:
        assert outcome_of(History(seed, duplicates=duplicates)) is None
        with mutation():
            assert isinstance(outcome_of(History(seed, duplicates=duplicates)), Violation)
