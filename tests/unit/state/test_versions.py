"""An older and a newer master on one log: nothing is lost, and nothing new is written too early."""

import msgspec
import pytest
from memory_log import MemoryLog

from orca_master.errors import NeedsNewerMasters
from orca_master.state import entry as codec
from orca_master.state.log import restore
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table, View
from orca_master.state.transaction import Transaction
from orca_master.state.versions import OlderThanCluster, check_not_older
from sim.env import sim_env


class Lowest(msgspec.Struct, frozen=True):
    version: int


class OldService(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    replicas: int = 1


class NewService(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    replicas: int = 1
    labels: dict[str, str] = {}


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    host: str


LOWEST = Table("lowest", Lowest, key=lambda _: ("masters",))
OLD_SERVICES = Table("services", OldService, key=lambda s: (s.name,))
NEW_SERVICES = Table("services", NewService, key=lambda s: (s.name,), fields_since={"labels": 2})
ROUTES = Table("routes", Route, key=lambda r: (r.host,), since=2)


def lowest(view: View) -> int:
    row = view.get(LOWEST, "masters")
    return row.version if row is not None else 1


OLD = Schema(LOWEST, OLD_SERVICES, version=1, cluster_version=lowest)
NEW = Schema(LOWEST, NEW_SERVICES, ROUTES, version=2, cluster_version=lowest)
WEB = NewService("web", 2, {"tier": "front"})


class Masters:
    """One log, and on it an older and a newer master."""

    def __init__(self) -> None:
        self.old = Store(sim_env(1), MemoryLog(), OLD)
        self.new = Store(sim_env(2), MemoryLog(), NEW)

    def commit(self, on: Store, fn) -> None:
        """As the leader does: run, encode, apply everywhere."""
        tx = Transaction(on.state)
        fn(tx)
        raw = codec.encode_entry(codec.Entry(on.state.version, tx.changes, tx.records))
        assert self.old.apply(raw)
        assert self.new.apply(raw)
        assert self.old.state.digest == self.new.state.digest


def test_a_newer_table_is_refused_until_all_masters_know_it() -> None:
    masters = Masters()
    with pytest.raises(NeedsNewerMasters, match="routes needs all masters on version 2"):
        masters.commit(masters.new, lambda tx: tx.put(ROUTES, Route("a.example")))
    masters.commit(masters.new, lambda tx: tx.put(LOWEST, Lowest(2)))
    masters.commit(masters.new, lambda tx: tx.put(ROUTES, Route("a.example")))
    assert masters.new.state.get(ROUTES, "a.example") == Route("a.example")


def test_a_newer_field_is_left_out_until_all_masters_know_it() -> None:
    masters = Masters()
    masters.commit(masters.new, lambda tx: tx.put(NEW_SERVICES, WEB))
    assert masters.new.state.get(NEW_SERVICES, "web") == NewService("web", 2)
    raw = masters.new.state.raw("services", ("web",))
    assert raw == OLD_SERVICES.encode(OldService("web", 2))
    masters.commit(masters.new, lambda tx: tx.put(LOWEST, Lowest(2)))
    masters.commit(masters.new, lambda tx: tx.put(NEW_SERVICES, WEB))
    assert masters.new.state.get(NEW_SERVICES, "web") == WEB


def test_the_version_counts_from_the_transaction_that_raises_it() -> None:
    def raise_and_use(tx: Transaction) -> None:
        tx.put(LOWEST, Lowest(2))
        tx.put(ROUTES, Route("a.example"))

    masters = Masters()
    masters.commit(masters.new, raise_and_use)
    assert masters.new.state.count(ROUTES) == 1


def test_an_older_master_reads_what_a_newer_one_wrote_and_loses_nothing_of_it() -> None:
    masters = Masters()
    masters.commit(masters.new, lambda tx: tx.put(LOWEST, Lowest(2)))
    masters.commit(masters.new, lambda tx: tx.put(NEW_SERVICES, WEB))
    masters.commit(masters.new, lambda tx: tx.put(ROUTES, Route("a.example")))
    assert masters.old.state.get(OLD_SERVICES, "web") == OldService("web", 2)
    masters.commit(masters.old, lambda tx: tx.put(OLD_SERVICES, OldService("web", 5)))
    assert masters.new.state.get(NEW_SERVICES, "web") == msgspec.structs.replace(WEB, replicas=5)
    handed_on = Store(sim_env(3), MemoryLog(), NEW)
    restore(handed_on, masters.old.capture())
    assert handed_on.state.get(ROUTES, "a.example") == Route("a.example")
    assert handed_on.state.digest == masters.new.state.digest


def test_a_master_that_is_older_than_its_cluster_may_not_start() -> None:
    masters = Masters()
    check_not_older(masters.old.state)
    masters.commit(masters.new, lambda tx: tx.put(LOWEST, Lowest(2)))
    check_not_older(masters.new.state)
    with pytest.raises(OlderThanCluster, match="install the version that the other masters run"):
        check_not_older(masters.old.state)


def test_without_other_masters_everything_that_is_known_may_be_written() -> None:
    tx = Transaction(State(Schema(NEW_SERVICES, ROUTES, version=2)))
    tx.put(ROUTES, Route("a.example"))
    tx.put(NEW_SERVICES, WEB)
    assert tx.get(NEW_SERVICES, "web") == WEB


class Loud(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, str] = {}


@pytest.mark.parametrize(
    ("row_type", "field"), [(NewService, "name"), (NewService, "nothing"), (Loud, "labels")]
)
def test_a_newer_field_must_be_one_that_can_be_left_out(row_type, field) -> None:
    with pytest.raises(ValueError):
        Table("t", row_type, key=lambda r: (r.name,), fields_since={field: 2})


def test_a_schema_knows_no_table_that_is_newer_than_itself() -> None:
    with pytest.raises(ValueError, match="is of version 2, the schema of 1"):
        Schema(ROUTES)
