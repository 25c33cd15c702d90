"""Which key-encryption key wraps what the state holds, and how far it is replaced by another one.

    handing    the old one wraps; the new one goes from disk to disk    until all who are there have it
    wrapping   the new one wraps; what the old one has wrapped is wrapped anew    until nothing is left
    done       the new one has wrapped everything, and the old one is deleted

A key is in no row, also not wrapped: rows name keys by their ids.
"""

from enum import StrEnum

import msgspec

from orca_master.state.table import Table, View


class WrappingStep(StrEnum):
    HANDING = "handing"
    WRAPPING = "wrapping"
    DONE = "done"


class Wrapping(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row, since the key is replaced for the first time. All but times and `actor` are ids of keys.

    `current` wraps from now on. `coming` is handed out (empty: the leader has made none yet), `previous`
    has wrapped something still. `since`: when `current` began to wrap, Unix seconds; 0: when the cluster
    was founded. `given_up`: why the last change came to nothing.
    """

    current: str
    step: WrappingStep
    actor: str
    begun_at: float
    coming: str = ""
    previous: str = ""
    since: float = 0.0
    given_up: str = ""

    @property
    def needed(self) -> tuple[str, ...]:
        """What every master is to have on its disk, the one that wraps less and less first."""
        return tuple(key for key in (self.previous, self.current, self.coming) if key)


class KeyHolding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a master says that it has on its disk: ids of keys. `is_given`: its key comes from outside its
    folder, where it cannot keep another one."""

    master: str
    keys: tuple[str, ...]
    is_given: bool = False


WRAPPING = Table("wrapping_key", Wrapping, key=lambda _: ("kek",))
KEY_HOLDINGS = Table("wrapping_key_holdings", KeyHolding, key=lambda h: (h.master,))


def the_wrapping(view: View) -> Wrapping | None:
    """None: the key was never replaced."""
    return view.get(WRAPPING, "kek")
