"""The interface between the pool and whatever carries its calls."""

from enum import StrEnum
from typing import NamedTuple, Protocol

from experts.links.record import FailureRecord
from experts.links.state import LinkState
from experts.transport.call import ExpertCall, Form, Partial


class ShardUnavailable(ConnectionError):  # noqa: N818 (a state)
    """A shard that cannot be called or did not reply: which, and why (eof, timeout, error, or the frame error's).

    `sequence` is the number of the call that has failed, 0 where none was sent.
    """

    def __init__(self, shard: int, reason: str, message: str, sequence: int = 0) -> None:
        super().__init__(message)
        self.shard = shard
        self.reason = reason
        self.sequence = sequence


class Why(StrEnum):
    """Why a shard that lives does not answer a call. The value is the reason in counters and failures."""

    MISS = "miss"
    BUSY = "busy"
    ERROR = "error"


class Sent(NamedTuple):
    """A call in flight: when sending began, in nanoseconds, its bytes on the wire, and the lane that carries it.

    Its reply has `rows` rows of `form`, each `hidden` wide. `sequence` is the call's own: a further attempt at the same
    rows has another.
    """

    shard: int
    sequence: int
    rows: int
    sent_ns: int
    wire_bytes: int
    lane: int = 0
    form: Form = Form.SUMS
    hidden: int = 0


class Reply(NamedTuple):
    """A shard's reply to call `sequence`, valid until the next event is asked for.

    `received_ns` is when its last byte came; its bytes on the wire.
    """

    shard: int
    sequence: int
    partial: Partial
    received_ns: int
    wire_bytes: int


class Refusal(NamedTuple):
    """A shard lives and does not answer call `sequence`.

    MISS: it does not hold the experts. BUSY: it may be asked again after `retry_s` seconds. ERROR: the computation has
    failed, and would again if `permanent`.
    """

    shard: int
    sequence: int
    why: Why
    text: str
    permanent: bool = False
    retry_s: float = 0.0


Event = Reply | Refusal | ShardUnavailable


class Transport(Protocol):
    """Carries calls; driven by one thread, which no method but `receive` holds up.

    Several calls to one shard may be open. A shard that fails loses all of them, each with an event of its own. Lanes,
    numbered from 0, say only which of its connections carries a call.
    """

    record: FailureRecord

    def state(self, shard: int) -> LinkState:
        """The state of the link to the shard."""
        ...

    def available(self, shard: int) -> bool:
        """Whether the shard can be called now."""
        ...

    def rank(self, shard: int) -> int:
        """Which of several shards is to be asked first: the lowest."""
        ...

    def has_room(self, shard: int) -> bool:
        """Whether fewer calls than the window are open."""
        ...

    def clock_error_s(self, shard: int) -> float:
        """Bound in seconds on the error of the shard's stamps: 0 where both sides read one clock."""
        ...

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        """Send a call.

        Raises:
            ShardUnavailable: the shard cannot be reached, or the window is full (reason `busy`).
        """
        ...

    def receive(self, until_s: float) -> Event | None:
        """Return what has become of an open call, of any lane.

        Args:
            until_s: on the monotonic clock. None if nothing has come by then, or a link's state has changed.
        """
        ...

    def late(self, sent: Sent) -> None:
        """The call has been open for longer than usual: the shard becomes suspect until it is answered."""
        ...

    def cancel(self, sent: Sent) -> None:
        """Nobody waits for the call any more: the shard is told, and an answer that comes all the same is dropped."""
        ...

    def give_up(self, shard: int, reason: str) -> None:
        """End the connections to a shard; its open calls fail with `reason`."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...
