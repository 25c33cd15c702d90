"""Every planted fault is found: by a rule acted out by hand, or by a history of a few pinned seeds."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from sim.raft import mutations, scenarios
from sim.raft.history import History
from sim.raft.member_history import MemberHistory
from sim.raft.virtual import outcome_of

Mutation = Callable[[], AbstractContextManager[None]]
Scenario = Callable[[], None]

MOST_SEEDS = 80


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
        (
            mutations.a_configuration_is_in_force_only_when_committed,
            scenarios.a_promoted_master_counts_from_the_moment_its_promotion_is_appended,
        ),
        (
            mutations.a_configuration_that_is_cut_off_stays_in_force,
            scenarios.a_configuration_that_is_cut_off_is_in_force_no_longer,
        ),
        (mutations.learners_count_for_the_commit, scenarios.a_learner_commits_nothing),
        (
            mutations.members_change_before_an_entry_of_the_own_term,
            scenarios.a_new_leader_changes_no_members_before_it_has_committed_something,
        ),
        (mutations.members_change_twice_at_once, scenarios.members_change_one_at_a_time),
        (
            mutations.a_start_forgets_the_configurations_after_the_snapshot,
            scenarios.a_configuration_in_the_log_survives_a_restart,
        ),
        (
            mutations.a_leader_counts_itself_while_it_removes_itself,
            scenarios.a_leader_that_removes_itself_does_not_count_itself,
        ),
    ],
    ids=lambda f: f.__name__,
)
def test_a_broken_rule_is_noticed(mutation: Mutation, scenario: Scenario) -> None:
    with mutation(), pytest.raises(scenarios.Broken):
        scenario()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mutation", "first_seed", "duplicates"),
    [
        (mutations.the_term_is_not_written, 3, False),
        (mutations.answers_leave_before_the_sync, 12, False),
        (mutations.entries_that_agree_are_removed_too, 2, True),
        (mutations.snapshots_are_published_before_they_are_synced, 1, False),
        (mutations.reads_are_local, 22, False),
        (mutations.a_start_drops_the_entries_after_the_snapshot, 1, False),
        (mutations.the_commit_index_moves_over_entries_that_were_not_compared, 5, False),
        (mutations.shorter_logs_may_win, 1, False),
        (mutations.a_refused_proposal_stays_in_the_log, 11, False),
        (mutations.truncations_are_not_written, 130, False),
        (mutations.proposals_are_acknowledged_when_appended, 1, False),
        (mutations.a_lost_leadership_is_answered_as_a_refusal, 1, False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_histories_find_what_is_broken(
    mutation: Mutation, first_seed: int, duplicates: bool
) -> None:
    """The same seed finds nothing when nothing is broken, so it is the fault that it finds.

    The first seed is one that found it when this was written; a change of the log may move that.
    """
    for seed in range(first_seed, first_seed + MOST_SEEDS):
        with mutation():
            violation = outcome_of(History(seed, duplicates=duplicates))
        if violation is not None:
            assert outcome_of(History(seed, duplicates=duplicates)) is None
            return
    pytest.fail(f"not found in {MOST_SEEDS} histories")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mutation", "first_seed"),
    [
        (mutations.a_configuration_is_in_force_only_when_committed, 35),
        (mutations.a_configuration_that_is_cut_off_stays_in_force, 103),
        (mutations.learners_count_for_the_commit, 48),
        (mutations.members_change_before_an_entry_of_the_own_term, 13),
        (mutations.members_change_twice_at_once, 1),
        (mutations.a_start_forgets_the_configurations_after_the_snapshot, 15),
        (mutations.a_snapshot_brings_no_members, 6),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_histories_with_changes_of_members_find_what_is_broken(
    mutation: Mutation, first_seed: int
) -> None:
    """As above."""
    for seed in range(first_seed, first_seed + MOST_SEEDS):
        with mutation():
            violation = outcome_of(MemberHistory(seed))
        if violation is not None:
            assert outcome_of(MemberHistory(seed)) is None
            return
    pytest.fail(f"not found in {MOST_SEEDS} histories")
