"""A shard on sockets: each connection's thread reads its router's calls, and `ComputeQueue` lets them compute in turn.

A call's thread stamps the last byte received even while another router's call computes, so the wait for its turn counts
as queueing and not as transfer.
"""

import json
import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from experts.host.log import fields, step_name
from experts.host.threads import measured_threads
from experts.host.watched_thread import ThreadWatch
from experts.shard.compute_queue import MOST_ROWS, ComputeQueue
from experts.shard.shard import ExpertShard
from experts.transport.call import ExpertCall, Stamps, pack_partial, unpack_call
from experts.transport.channel import Channel
from experts.transport.credentials import Credentials
from experts.transport.frame import FrameError, Header, Kind
from experts.transport.inbox import Closed
from experts.transport.listener import FrameServer

log = logging.getLogger(__name__)

SAMPLE_ROWS = 8
IDLE_POLL_SECONDS = 0.05


class ExpertServer:
    """Serves `shard` to routers that prove `credentials`, on a unix socket and on TCP `host`.

    Args:
        delay_s: seconds added to each computation, for tests of what is measured; may be changed while it serves.
        threads: CPU threads that a computation may use.
        slow_call_s: a call that takes longer, waiting included, is logged.
        watch: the process's threads, to which the data plane's are added.
        clock_ns: the clock of the stamps; another host's starts anywhere.
        most_merged_rows: rows of several routers' calls that are computed together.

    `queue` has the calls that wait and counts what was computed. `turn` is held during a computation: whoever else
    holds it makes calls queue, as another router's call does.
    """

    def __init__(
        self,
        shard: ExpertShard,
        *,
        credentials: Credentials,
        host: str,
        node: str,
        replica: str,
        checksum: bool = False,
        delay_s: float = 0.0,
        threads: int = 1,
        slow_call_s: float = float("inf"),
        watch: ThreadWatch | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        most_merged_rows: int = MOST_ROWS,
    ) -> None:
        self.shard = shard
        # Measured before the server listens: calls would disturb it.
        self._threads = measured_threads(lambda: shard.compute(shard.sample_call(SAMPLE_ROWS)), threads)
        self.delay_s = delay_s
        self.queue = ComputeQueue(self._work, most_merged_rows, clock_ns, shard.layers, shard.check)
        self.turn = self.queue.turn
        self._clock_ns = clock_ns
        self._slow_call_ns = slow_call_s * 1e9
        self._watch = watch or ThreadWatch()
        self._server = FrameServer(
            role="shard",
            index=shard.index,
            replica=replica,
            node=node,
            host=host,
            credentials=credentials,
            checksum=checksum,
            handler=self,
            threads=self._watch,
            around=torch.inference_mode,  # once a connection: for each call it would take as long as unpacking it
        )
        self.endpoint = self._server.endpoint
        self.rejected = self._server.rejected

    def check_health(self, limit_s: float) -> None:
        """Check the data plane, which may hang while this process's control plane still responds.

        Raises:
            RuntimeError: a thread that must last has died, or one call has computed for more than `limit_s`
                seconds.
        """
        self._watch.check()
        if not self._server.alive():
            raise RuntimeError(f"shard {self.shard.index}: its data thread has died")
        since = self.queue.computing_since_ns
        if since is not None and self._clock_ns() - since > limit_s * 1e9:
            raise RuntimeError(f"shard {self.shard.index}: one call has been computing for over {limit_s:.0f} s")

    @property
    def computing(self) -> bool:
        """Whether a call is being computed."""
        return self.queue.computing_since_ns is not None

    @property
    def assignments(self) -> int:
        """How many (token, expert) pairs have been computed."""
        return self.queue.counts.assignments

    def wait_alone(self, seconds: float) -> None:
        """Wait until no router is connected, at most so long."""
        deadline = time.monotonic() + seconds
        while self._server.connections and time.monotonic() < deadline:
            time.sleep(IDLE_POLL_SECONDS)

    def hang_up(self) -> None:
        """End every connection and go on listening: routers connect again."""
        self._server.hang_up()

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._server.close()

    def opened(self, channel: Channel) -> None:
        """A router has connected; it sends first."""

    def closed(self, channel: Channel) -> None:
        """A router has disconnected; there is no state to drop."""

    def frame(self, channel: Channel, header: Header, payload: memoryview) -> None:
        """Answer one frame of a router."""
        if header.kind is Kind.EXPERTS:
            call = unpack_call(payload, channel.shared and channel.shared.calls)
            self._answer(channel, header.sequence, call, self._clock_ns())
        elif header.kind is Kind.SHARE:
            channel.give_shared(header.sequence, payload)
        elif header.kind is Kind.STATUS:
            channel.send(Kind.STATUS, header.sequence, [json.dumps(self._status()).encode()])
        else:
            raise FrameError("kind", f"a shard does not answer {header.kind.name} frames")

    def _status(self) -> dict[str, object]:
        counts = self.queue.counts
        return {
            "assignments": counts.assignments,
            "computations": counts.computations,
            "merged_calls": counts.merged_calls,
            "rejected": dict(self.rejected),
            "thread_failures": self._watch.failures,
            "weights_bytes": self.shard.weights_bytes,
            "load_seconds": self.shard.load_seconds,
            "experts": sum(map(len, self.shard.held.values())),
            "epoch": self.shard.epoch,
        }

    def _answer(self, channel: Channel, sequence: int, call: ExpertCall, received: int) -> None:
        try:
            partial = self.queue.compute(call, received, channel, channel.hung_up)
        except Closed:
            raise
        except Exception as error:  # it goes to the router, whose requests fail; the shard serves on
            log.exception("could not compute a layer", extra=fields(step=step_name(call.step), layer=call.layer))
            channel.send(Kind.FAILURE, sequence, [f"{type(error).__name__}: {error}".encode()])
            return
        region = channel.shared.replies if call.apart and channel.shared else None
        channel.send(Kind.PARTIALS, sequence, pack_partial(partial, region))
        stamps = partial.stamps
        if stamps.sent - stamps.received > self._slow_call_ns:
            _log_slow(call, stamps)

    def _work(self, call: ExpertCall) -> Tensor:
        self._threads.use(len(call.rows_A))
        if self.delay_s:
            time.sleep(self.delay_s)
        return self.shard.compute(call)


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
