"""A transport whose shards can be lost at any moment, whatever carries its calls."""

from typing import Any

from experts.links.state import LinkState
from experts.transport.base import Sent, ShardUnavailable, Transport
from experts.transport.call import ExpertCall


class Lossy:
    """Passes everything on to `inner`. Shards in `dead` cannot be called.

    Those in `dying` are not known to be dead before one of them is called; then all of them are.
    """

    def __init__(self, inner: Transport) -> None:
        self.dead: set[int] = set()
        self.dying: set[int] = set()
        self.calls = 0
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def state(self, shard: int) -> LinkState:
        """DEAD if the shard is known to be."""
        return LinkState.DEAD if shard in self.dead else self._inner.state(shard)

    def available(self, shard: int) -> bool:
        """Whether the shard is not known to be dead."""
        return shard not in self.dead and self._inner.available(shard)

    def rank(self, shard: int) -> int:
        """That of its state."""
        return self.state(shard).rank if shard in self.dead else self._inner.rank(shard)

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        """Send a call, unless its shard is lost."""
        if shard in self.dying:
            self.dead |= self.dying
            self.dying = set()
        if shard in self.dead:
            raise ShardUnavailable(shard, "eof", f"shard {shard} is lost")
        self.calls += 1
        return self._inner.send(shard, call, lane)
