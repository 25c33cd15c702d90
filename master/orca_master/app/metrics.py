"""What `/metrics` says of the log (who leads, how far everybody is, how long the disk takes), of nodes
and of their streams."""

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from orca_master.cluster.liveness import Liveness
from orca_master.cluster.masters.port import Membership
from orca_master.state.growing import GrowingLog
from orca_master.state.raft.log import RaftLog
from orca_master.state.raft.meters import Histogram
from orca_master.state.store import Store
from orca_master.tasks.streams import Streams


class LogCollector(Collector):
    """Read at each scrape. A master alone (solo log) has no counters of Raft, only term and role."""

    def __init__(self, store: Store, backing: GrowingLog, membership: Membership) -> None:
        self._store = store
        self._backing = backing
        self._membership = membership

    def collect(self) -> Iterable[Metric]:
        leadership = self._store.leadership
        yield _gauge("orca_raft_term", "Term of this master's log", leadership.term)
        yield _gauge("orca_raft_leader", "1 if this master leads", float(leadership.is_leader))
        yield _gauge("orca_raft_has_leader", "1 if a leader is known", bool(leadership.leader))
        yield _gauge("orca_state_version", "Version of the state", self._store.state.version)
        yield _gauge("orca_state_age_seconds", "At most so old is the state", self._store.age)
        yield from self._members()
        if self._backing.raft is not None:
            yield from _raft(self._backing.raft)

    def _members(self) -> Iterable[Metric]:
        behind = GaugeMetricFamily(
            "orca_raft_behind_entries", "Entries that a master lacks", labels=["master"]
        )
        connected = GaugeMetricFamily(
            "orca_raft_connected", "1 if the leader reaches this master", labels=["master"]
        )
        members = self._membership.members()
        for member in members:
            if member.behind is not None:
                behind.add_metric([member.id], member.behind)
                connected.add_metric([member.id], float(member.is_connected))
        voters = sum(member.is_voter for member in members)
        yield _gauge("orca_raft_voters", "Masters that vote", voters)
        yield behind
        yield connected


class LivenessCollector(Collector):
    """Of the leader; other masters judge nobody and say 0."""

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness

    def collect(self) -> Iterable[Metric]:
        held = float(len(self._liveness.held))
        yield _gauge("orca_evictions_held", "Nodes not given up: too many lost at once", held)


class StreamsCollector(Collector):
    """Of the workers' streams that this master holds, whoever leads."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def collect(self) -> Iterable[Metric]:
        streams = self._streams
        yield _gauge("orca_worker_streams", "Workers' streams that end here", streams.count)
        yield _counter("orca_worker_streams_opened", "Workers' streams opened", streams.opened)
        yield _counter("orca_worker_hellos_repeated", "Hellos asked for again", streams.repeated)


def _raft(raft: RaftLog) -> Iterable[Metric]:
    standing, meters = raft.progress(), raft.meters
    yield _gauge("orca_raft_commit_index", "Last committed entry known", standing.commit_index)
    yield _gauge("orca_raft_applied_index", "Last applied entry", standing.applied_index)
    yield _gauge("orca_raft_last_index", "Last entry of the log", standing.last_index)
    yield _counter("orca_raft_elections", "Elections stood in", meters.elections_stood)
    yield _counter("orca_raft_leader_changes", "New leaders seen", meters.leadership_changes)
    snapshots = CounterMetricFamily("orca_raft_snapshots", "Snapshots", labels=["what"])
    snapshots.add_metric(["taken"], meters.snapshots_taken)
    snapshots.add_metric(["received"], meters.snapshots_received)
    snapshots.add_metric(["sent"], meters.snapshots_sent)
    yield snapshots
    yield _histogram("orca_raft_fsync_seconds", "Making the log durable", meters.fsync)
    yield _histogram("orca_raft_commit_seconds", "From proposal to applied", meters.proposal)


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=value)


def _counter(name: str, about: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, about, value=value)


def _histogram(name: str, about: str, taken: Histogram) -> HistogramMetricFamily:
    bounds = [*(str(bound) for bound in taken.bounds), "+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(taken.buckets)), strict=True))
    return HistogramMetricFamily(name, about, buckets=buckets, sum_value=taken.sum)
