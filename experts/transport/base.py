"""The seam between the pool and whatever carries its questions."""

from dataclasses import dataclass
from typing import Protocol

from experts.transport.call import ExpertCall, Partial


class ShardUnavailable(ConnectionError):  # noqa: N818 (a state)
    """A shard that cannot be asked or did not answer: which, and why (eof, timeout, error, or a frame's fault)."""

    def __init__(self, shard: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.shard = shard
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sent:
    """A question on its way: nanoseconds when its sending began, and its bytes on the wire."""

    shard: int
    sequence: int
    rows: int
    sent_ns: int
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A shard's answer, good until its next one: nanoseconds when it was complete, its bytes on the wire."""

    shard: int
    partial: Partial
    received_ns: int
    wire_bytes: int


class Transport(Protocol):
    """Carries one outstanding question per shard; driven by one thread."""

    def available(self, shard: int) -> bool:
        """Whether the shard can be asked now."""
        ...

    def clock_error_s(self, shard: int) -> float:
        """Bound in seconds on the error of the shard's stamps: 0 where both sides read one clock."""
        ...

    def send(self, shard: int, call: ExpertCall) -> Sent:
        """Send a question.

        Raises:
            ShardUnavailable: the shard cannot be reached.
        """
        ...

    def receive(self, sent: list[Sent], deadline_s: float) -> Answer | ShardUnavailable:
        """Return the next answer, or failure, to one of the questions in `sent`.

        Args:
            deadline_s: on the monotonic clock; a shard that has not answered by then fails with reason timeout.
        """
        ...

    def close(self) -> None:
        """Hang up everywhere."""
        ...
