"""A shard on sockets: each connection's thread reads its router's calls, and `ComputeQueue` lets them compute in turn.

A call's thread stamps the last byte received even while another router's call computes, so the wait for its turn counts
as queueing and not as transfer.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from experts.host.threads import LateThreads
from experts.host.watched_thread import ThreadWatch
from experts.shard.beats import Beats
from experts.shard.compute_queue import MOST_ROWS, ComputeQueue
from experts.shard.held.pace import Pace
from experts.shard.session import Desk, Session
from experts.shard.shard import ExpertShard
from experts.transport.call import ExpertCall
from experts.transport.channel import Channel
from experts.transport.control import Beat
from experts.transport.frame import Header
from experts.transport.listener import FrameServer
from experts.transport.trust.credentials import Credentials

SAMPLE_ROWS = 8
IDLE_POLL_SECONDS = 0.05
DELAY_SLICE_SECONDS = 0.01
CLOSE_SECONDS = 1.0
# Faults in a row after which a shard's health is in doubt, and how long its check waits for a computation to end.
MOST_FAULTS, TURN_SECONDS = 3, 1.0


class ExpertServer:
    """Serves `shard` to routers that prove `credentials`, on a unix socket and on TCP `host`.

    Args:
        delay_s: seconds added to each computation, for tests of what is measured; may be changed while it serves.
        threads: CPU threads that a computation may use.
        slow_call_s: a call that takes longer, waiting included, is logged.
        watch: the process's threads, to which the data plane's are added.
        clock_ns: the clock of the stamps; another host's starts anywhere.
        most_merged_rows: rows of several routers' calls that are computed together.
        copy_pace: how fast experts are given to other shards; without one as fast as they are asked for.

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
        copy_pace: Pace | None = None,
    ) -> None:
        self.shard = shard
        # Measured before the server listens, as calls would disturb it; where nothing is held, after the first came.
        self._threads = LateThreads(lambda: shard.compute_sample(SAMPLE_ROWS), threads)
        self._threads.measure()
        self.delay_s = delay_s
        self.queue = ComputeQueue(self._work, most_merged_rows, clock_ns, shard.layers, shard.check)
        self.turn = self.queue.turn
        self._clock_ns = clock_ns
        self._watch = watch or ThreadWatch()
        self._draining = False
        self._beats = Beats(self._beat, self._watch, f"shard {shard.index} beats")
        self._desk = Desk(
            shard,
            self.queue,
            self._beats,
            self._status,
            lambda: self.shard.epoch,
            clock_ns,
            slow_call_s * 1e9,
            copy_pace or Pace(),
        )
        self._sessions: dict[Channel, Session] = {}
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
            RuntimeError: a thread that must last has died; or a computation has made no progress for more than
                `limit_s` seconds, however long it takes in all; or all fail, as after a fault of a GPU.
        """
        self._watch.check()
        if not self._server.alive():
            raise RuntimeError(f"shard {self.shard.index}: its data thread has died")
        self._check_progress(limit_s)
        self._check_faults()
        self._measure_late()

    def _measure_late(self) -> None:
        """Measure threads for a shard that began with nothing and has got experts: once, for some milliseconds."""
        if not self._threads.measured and self.shard.weights_bytes and self.turn.acquire(timeout=TURN_SECONDS):
            try:
                with torch.inference_mode():
                    self._threads.measure()
            finally:
                self.turn.release()

    def _check_progress(self, limit_s: float) -> None:
        self.queue.computation.progress.sample()
        since = self.queue.computation.since_ns
        if since is not None:
            still_ns = self._clock_ns() - max(since, self.queue.computation.progress.still_since_ns)
            if still_ns > limit_s * 1e9:
                raise RuntimeError(f"shard {self.shard.index}: a computation has stood still for over {limit_s:.0f} s")

    def _check_faults(self) -> None:
        """After several faults in a row, find out whether they are the shard's or those of the calls that came."""
        faults = self.queue.computation.faults
        if faults < MOST_FAULTS or not self.turn.acquire(timeout=TURN_SECONDS):
            return  # if it is busy, the next check finds out
        try:
            with torch.inference_mode():
                self.shard.compute_sample(1)
            self.queue.computation.faults = 0
        except Exception as error:
            tried = f"the last {faults} computations have failed, and so does a sample"
            raise RuntimeError(f"shard {self.shard.index}: {tried}: {error}") from error
        finally:
            self.turn.release()

    @property
    def computing(self) -> bool:
        """Whether a call is being computed."""
        return self.queue.computation.since_ns is not None

    @property
    def assignments(self) -> int:
        """How many (token, expert) pairs have been computed."""
        return self.queue.counts.assignments

    @property
    def computed_s(self) -> float:
        """Seconds that it has computed, with its compute threads."""
        return self.queue.computation.all_ns / 1e9

    def wait_alone(self, seconds: float) -> None:
        """Wait until no router is connected, at most so long."""
        deadline = time.monotonic() + seconds
        while self._server.connections and time.monotonic() < deadline:
            time.sleep(IDLE_POLL_SECONDS)

    def hang_up(self) -> None:
        """End every connection and go on listening: routers connect again."""
        self._server.hang_up()

    def close(self) -> None:
        """Stop listening, end every connection and wait for their threads, but not for long for one that computes."""
        self._server.close()
        self._beats.close(CLOSE_SECONDS)
        self._server.join(CLOSE_SECONDS)

    def drain(self) -> None:
        """Tell routers, with the next beat, to ask other replicas first. Whoever asks is answered all the same."""
        self._draining = True

    def opened(self, channel: Channel) -> None:
        """A router has connected; it sends first."""
        self._sessions[channel] = Session(channel, self._desk)

    def closed(self, channel: Channel) -> None:
        """A router has disconnected."""
        self._sessions.pop(channel).close()

    def frame(self, channel: Channel, header: Header, payload: memoryview) -> None:
        """Answer one frame of a router."""
        self._sessions[channel].frame(header, payload)

    def _beat(self, number: int) -> Beat:
        since = self.queue.computation.since_ns
        return Beat(number, self.queue.waiting, since or 0, self.queue.computation.progress.sample(), self._draining)

    def _status(self) -> dict[str, object]:
        counts = self.queue.counts
        return {
            "assignments": counts.assignments,
            "computations": counts.computations,
            "merged_calls": counts.merged_calls,
            "cancelled_calls": counts.cancelled,
            "expired_calls": counts.expired,
            "refused_calls": counts.refused,
            "rejected": dict(self.rejected),
            "thread_failures": self._watch.failures,
            "weights_bytes": self.shard.weights_bytes,
            "load_seconds": self.shard.load_seconds,
            "experts": sum(map(len, self.shard.held.values())),
            "copying": self.shard.states.copying,
            "epoch": self.shard.epoch,
            "draining": self._draining,
        }

    def _work(self, call: ExpertCall) -> Tensor:
        self._threads.use(len(call.rows_A))
        if self.delay_s:
            self._delay()
        return self.shard.compute(call)

    def _delay(self) -> None:
        """Sleep for `delay_s`, with progress as a slow computation has."""
        begun = time.monotonic()
        while (left := begun + self.delay_s - time.monotonic()) > 0:
            time.sleep(min(left, DELAY_SLICE_SECONDS))
            self.queue.computation.progress.step()
