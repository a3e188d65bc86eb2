"""Connects to one replica of a shard: all that a link needs, within one deadline."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from experts.transport.address import Endpoint
from experts.transport.channel import Channel, connect
from experts.transport.control import Hello
from experts.transport.shared import SharedSizes
from experts.transport.trust.credentials import Credentials

# For all connections of a link together: a node that is gone does not refuse.
CONNECT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Dialled:
    """Connections that have proven themselves: one a lane for calls, and one for control."""

    channels: tuple[Channel, ...]
    control: Channel

    def close(self) -> None:
        """Close them."""
        for channel in (*self.channels, self.control):
            channel.close()


@dataclass(frozen=True, slots=True)
class Dialler:
    """Dials from `node`.

    Args:
        router: this router's incarnation, by which a shard knows that several connections are one router's.
        epoch: returns the highest epoch that the router knows.
        lanes: connections for calls.
        call_s: bounds a read or write on them; the router's own waits for nothing.
        share: memory to share with a shard on this node, for each lane; without it all goes by sockets.
    """

    credentials: Credentials
    node: str
    router: int
    epoch: Callable[[], int]
    lanes: int
    call_s: float
    checksum: bool = False
    share: SharedSizes | None = None

    def dial(self, endpoint: Endpoint) -> Dialled:
        """Connect to `endpoint`.

        Raises:
            OSError: nothing answers, or another process than the one that is named, or one of another deployment, or
                not all of it within `CONNECT_SECONDS`.
        """
        deadline = time.monotonic() + CONNECT_SECONDS
        with ExitStack() as stack:
            control = self._connect(endpoint, None, deadline, stack)
            channels = tuple(self._connect(endpoint, self.share, deadline, stack) for _ in range(self.lanes))
            for channel in channels:
                channel.set_timeouts(self.call_s)  # until here the timeout was that of connecting
            stack.pop_all()
        return Dialled(channels, control)

    def _connect(self, endpoint: Endpoint, share: SharedSizes | None, deadline: float, stack: ExitStack) -> Channel:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no connection within {CONNECT_SECONDS:.0f} s")
        hello = Hello(self.router, self.epoch())
        channel = connect(endpoint, self.node, self.credentials, left_s, self.checksum, share, hello)
        stack.callback(channel.close)
        return channel
