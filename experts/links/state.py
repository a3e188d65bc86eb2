"""The states of a router's link to one replica of a shard. Imports nothing heavy."""

from enum import StrEnum


class LinkState(StrEnum):
    """DIALING -> PROVEN -> LIVE <-> SUSPECT -> DEAD; a replica that is back is dialled anew.

    PROVEN: both sides have proven the credentials, and no beat has come yet. SUSPECT: beats or an answer are late; its
    calls go to another replica as well. DEAD: a connection has ended, or no beat has come for seconds. The value is the
    name in metrics, reports and tables.
    """

    DIALING = "dialing"
    PROVEN = "proven"
    LIVE = "live"
    SUSPECT = "suspect"
    DEAD = "dead"

    @property
    def usable(self) -> bool:
        """Whether an answer may be expected."""
        return self in _USABLE

    @property
    def rank(self) -> int:
        """Which of several replicas is asked first: the lowest."""
        return _RANKS[self]


_USABLE = (LinkState.PROVEN, LinkState.LIVE, LinkState.SUSPECT)
_RANKS = {state: rank for rank, state in enumerate((LinkState.LIVE, *_USABLE[::2], LinkState.DIALING, LinkState.DEAD))}
