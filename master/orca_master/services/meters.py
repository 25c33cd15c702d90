"""What became of deploys, counted for `/metrics`: on the master that answered them."""

from prometheus_client import Counter

OUTCOMES = ("running", "failed", "open", "accepted")


class DeployMeters:
    """Each service of a deploy counts once: it runs, it failed or was refused, it was still in
    progress when the caller's time was up, or (`wait=false`) nobody waited for it."""

    def __init__(self) -> None:
        self.counter = Counter(
            "orca_deploys", "Deploys of services by outcome", ["outcome"], registry=None
        )
        self._of = {outcome: self.counter.labels(outcome) for outcome in OUTCOMES}

    def count(self, **outcomes: int) -> None:
        for outcome, number in outcomes.items():
            if number:
                self._of[outcome].inc(number)
