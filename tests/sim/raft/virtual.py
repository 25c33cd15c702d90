"""Runs a history to its end in virtual time."""

from sim.raft.history import History, Violation
from sim.virtual_time import run_virtual


def outcome_of(history: History) -> Violation | None:
    """What the history has found. A broken log may fail anywhere: then what came first counts."""
    try:
        run_virtual(history.run())
    except (Exception, ExceptionGroup) as error:
        if history.violation is None:
            raise error
    return history.violation
