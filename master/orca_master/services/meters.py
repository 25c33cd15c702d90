"""What became of deploys, counted for `/metrics`: on the master that answered them."""

from prometheus_client import Counter

OUTCOMES = ("running", "failed", "open", "accepted")


def deploy_counter() -> Counter:
    """One count for each service of a deploy: it runs, it failed or was refused, it was still in
    progress when the caller's time was up, or (`wait=false`) nobody waited for it."""
    counter = Counter("orca_deploys", "Deploys of services by outcome", ["outcome"], registry=None)
    for outcome in OUTCOMES:
        counter.labels(outcome)
    return counter
