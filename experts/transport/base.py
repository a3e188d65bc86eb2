"""The interface between the pool and whatever carries its calls."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from experts.transport.call import ExpertCall, Form, Partial


class ShardUnavailable(ConnectionError):  # noqa: N818 (a state)
    """A shard that cannot be called or did not reply: which, and why (eof, timeout, error, or the frame error's)."""

    def __init__(self, shard: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.shard = shard
        self.reason = reason


class Sent(NamedTuple):
    """A call in flight: when sending began, in nanoseconds, its bytes on the wire, and the lane that carries it.

    Its reply has `rows` rows of `form`.
    """

    shard: int
    sequence: int
    rows: int
    sent_ns: int
    wire_bytes: int
    lane: int = 0
    form: Form = Form.SUMS


class Reply(NamedTuple):
    """A shard's reply, valid until the next is asked for: when its last byte came, its bytes on the wire."""

    shard: int
    partial: Partial
    received_ns: int
    wire_bytes: int


class Transport(Protocol):
    """Carries one outstanding call per shard and lane; driven by one thread.

    Lanes, numbered from 0, let two calls to a shard be in flight. A shard that fails loses the calls on all of them.
    """

    def available(self, shard: int) -> bool:
        """Whether the shard can be called now."""
        ...

    def clock_error_s(self, shard: int) -> float:
        """Bound in seconds on the error of the shard's stamps: 0 where both sides read one clock."""
        ...

    def send(self, shard: int, call: ExpertCall, lane: int) -> Sent:
        """Send a call. The lane's last one must have been received, or have failed.

        Raises:
            ShardUnavailable: the shard cannot be reached.
        """
        ...

    def receive(self, sent: Mapping[int, Sent], deadline_s: float) -> Reply | ShardUnavailable:
        """Return the next reply, or failure, to one of the calls in `sent`.

        Asked once per reply, so it must not look at every outstanding call each time.

        Args:
            sent: the outstanding calls by shard, at least one; the caller removes what was answered.
            deadline_s: on the monotonic clock; a shard that has not replied by then fails with reason timeout.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...
