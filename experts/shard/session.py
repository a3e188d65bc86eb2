"""One router's connection to a shard: what its frames ask for, and what each is answered with.

    HELLO    first of all: who the router is
    SHARE    memory for the rows of this connection's calls, or none
    EXPERTS  PARTIALS, or MISS, BUSY or FAILURE; nothing if the call was cancelled
    STATUS   a JSON object; beats follow from then on
    CANCEL   nothing
    COPY     PIECE, or MISS: another shard takes over an expert that is held here

Any other frame, or one that is not as it must be, ends the connection. A connection carries calls, control or copies,
as its first frame after HELLO says: what is sent on a control connection never waits for the peer, see `Channel.post`.

A router may send further calls before the first is answered. They are read, computed and answered one after the other,
so the answers come in the calls' order. The rows of a further call must be in its frame, as shared memory has room for
one call's at a time; and its `left_us` counts from when it is read.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from experts.host.background import step_back
from experts.host.log import fields, step_name
from experts.shard.beats import Beats
from experts.shard.compute_queue import ComputeQueue
from experts.shard.copying.giver import Giver
from experts.shard.held.pace import Pace
from experts.shard.refusals import CallCancelledError, NoTimeLeftError, ShardBusyError
from experts.shard.shard import ExpertShard, NotHeldError
from experts.shard.waiting_calls import CallKey
from experts.transport.call import ExpertCall, Stamps, pack_partial, unpack_call
from experts.transport.channel import Channel
from experts.transport.control import Busy, Copy, Failure, Hello, Miss
from experts.transport.frame import FrameError, Header, Kind
from experts.transport.inbox import Closed

log = logging.getLogger(__name__)

# Of replies and beats that a router has not read. It has then not read for minutes: the socket holds megabytes itself.
MOST_UNREAD_BYTES = 1 << 20
# What a connection carries.
CALLS, CONTROL, COPIES = "calls", "control", "copies"


@dataclass(frozen=True, slots=True)
class Desk:
    """What all sessions of a shard share.

    Args:
        status: what STATUS is answered with.
        epoch: that of the placement by which the shard holds its experts.
        clock_ns: the clock of the stamps.
        slow_call_ns: a call that takes longer, waiting included, is logged.
        copy_pace: how fast experts are given to other shards.
    """

    shard: ExpertShard
    queue: ComputeQueue
    beats: Beats
    status: Callable[[], dict[str, object]]
    epoch: Callable[[], int]
    clock_ns: Callable[[], int]
    slow_call_ns: float
    copy_pace: Pace


class Session:
    """Serves one connection, on its own thread. `router` is what the router has said of itself."""

    def __init__(self, channel: Channel, desk: Desk) -> None:
        self.router: Hello | None = None
        self._channel = channel
        self._desk = desk
        self._carried = ""
        self._giver = Giver(desk.shard, desk.copy_pace)

    def frame(self, header: Header, payload: memoryview) -> None:
        """Answer one frame.

        Raises:
            FrameError: it is none that is due here.
            OSError: the connection failed.
        """
        if self.router is None or header.kind is Kind.HELLO:
            self._greeted(header, payload)
        elif header.kind is Kind.EXPERTS:
            self._carries(header, CALLS)
            shared = self._channel.shared
            self._answer(header.sequence, unpack_call(payload, shared and shared.calls), self._desk.clock_ns())
        elif header.kind is Kind.SHARE:
            self._carries(header, CALLS)
            self._channel.give_shared(header.sequence, payload)
        elif header.kind is Kind.STATUS:
            self._carries(header, CONTROL)
            self._tell_status(header.sequence)
        elif header.kind is Kind.COPY:
            self._carries(header, COPIES)
            self._give(header.sequence, Copy.unpacked(payload))
        elif header.kind is Kind.CANCEL:
            self._carries(header, CONTROL)
            self._cancel(header)
        else:
            raise FrameError("kind", f"a shard does not answer {header.kind.name} frames")

    def close(self) -> None:
        """The connection has ended."""
        self._desk.beats.remove(self._channel)

    def _greeted(self, header: Header, payload: memoryview) -> None:
        if self.router is not None or header.kind is not Kind.HELLO:
            raise FrameError("kind", f"a router says HELLO first and once, this one sent {header.kind.name}")
        self.router = Hello.unpacked(payload)

    def _carries(self, header: Header, what: str) -> None:
        if not self._carried:
            self._carried = what
            if what == COPIES:
                step_back()  # for as long as the connection's thread lives: computing goes first
        elif self._carried != what:
            raise FrameError("kind", f"a connection that carries {self._carried} carries no {header.kind.name} frames")

    def _give(self, sequence: int, wanted: Copy) -> None:
        try:
            piece, views = self._giver.piece(wanted)
        except NotHeldError as error:
            self._channel.send(Kind.MISS, sequence, [Miss(self._desk.epoch(), error.experts).packed()])
            return
        self._channel.send(Kind.PIECE, sequence, [piece.packed(), *views])

    def _tell_status(self, sequence: int) -> None:
        if self._channel.unsent_bytes > MOST_UNREAD_BYTES:
            raise FrameError("unread", "the router asks for the status and does not read what it is told")
        self._channel.post(Kind.STATUS, sequence, [json.dumps(self._desk.status()).encode()])
        self._desk.beats.add(self._channel)

    def _cancel(self, header: Header) -> None:
        if header.length:
            raise FrameError("length", f"a CANCEL has no payload, this one has {header.length} bytes")
        self._desk.queue.cancel(self._key(header.sequence))

    def _key(self, sequence: int) -> CallKey:
        """A call's name among those of all routers."""
        return (self.router.router if self.router else 0), sequence

    def _answer(self, sequence: int, call: ExpertCall, received: int) -> None:
        try:
            partial = self._desk.queue.compute(
                call, received, self._channel, self._channel.hung_up, self._key(sequence)
            )
        except Closed:
            raise
        except CallCancelledError:
            return
        except Exception as error:  # it goes to the router, whose requests fail; the shard serves on
            kind, payload = self._refusal(call, error)
            self._channel.send(kind, sequence, [payload])
            return
        shared = self._channel.shared
        region = shared.replies if call.apart and shared else None
        self._channel.send(Kind.PARTIALS, sequence, pack_partial(partial, region))
        stamps = partial.stamps
        if stamps.sent - stamps.received > self._desk.slow_call_ns:
            _log_slow(call, stamps)

    def _refusal(self, call: ExpertCall, error: Exception) -> tuple[Kind, bytes]:
        if isinstance(error, NotHeldError):
            return Kind.MISS, Miss(self._desk.epoch(), error.experts).packed()
        if isinstance(error, ShardBusyError):
            return Kind.BUSY, Busy(error.retry_us).packed()
        if isinstance(error, NoTimeLeftError):
            return Kind.FAILURE, Failure(permanent=False, text=str(error)).packed()
        log.error(
            "could not compute a layer", exc_info=error, extra=fields(step=step_name(call.step), layer=call.layer)
        )
        # A ValueError tells what is wrong with the call itself; all else may be the shard's fault.
        failure = Failure(isinstance(error, ValueError), f"{type(error).__name__}: {error}")
        return Kind.FAILURE, failure.packed()


def _log_slow(call: ExpertCall, stamps: Stamps) -> None:
    """The router gets the same two times with the reply, and logs the request ids of the step."""
    log.warning(
        "slow call",
        extra=fields(
            step=step_name(call.step),
            layer=call.layer,
            rows=len(call.x_RD),
            assignments=len(call.rows_A),
            queue_seconds=(stamps.started - stamps.received) / 1e9,
            compute_seconds=(stamps.sent - stamps.started) / 1e9,
        ),
    )
