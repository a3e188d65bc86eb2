"""A shard on sockets: one thread a connection reads questions, one lock lets them compute in turn.

A question is complete (`received`) when its own thread has read it, also while another router's question computes, so
the time that it then waits for the lock is queueing and not transfer. With one router nobody waits and no thread is woken twice.
"""

import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

import torch

from experts.call import Partial, Stamps, pack_partial, unpack_call
from experts.shard import ExpertShard
from experts.transport.address import Endpoint, listen_tcp, listen_unix, new_incarnation, unlink_unix
from experts.transport.channel import Channel, Closed, Idle, accept
from experts.transport.frame import FrameError, Header, Kind

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
FRAME_SECONDS = 30.0


class ExpertServer:
    """Serves `shard` to peers that prove `secret`, on a unix socket and on TCP `host`."""

    def __init__(self, shard: ExpertShard, secret: bytes, host: str, node: str, replica: str, checksum: bool) -> None:
        self.shard = shard
        self.rejected: Counter[str] = Counter()
        self.delay: Callable[[], None] = lambda: None
        self._secret = secret
        self._checksum = checksum
        self._compute_lock = threading.Lock()
        self._computing_since = 0.0
        self._assignments = 0
        self._channels: set[Channel] = set()
        self._closing = False
        unix, path = listen_unix()
        tcp, port = listen_tcp(host)
        self._listeners = (unix, tcp)
        self.endpoint = Endpoint("shard", shard.index, replica, new_incarnation(), node, host, port, path, os.getpid())
        self._threads = [self._start(self._accept_loop, listener) for listener in self._listeners]

    def check_health(self, limit_s: float) -> None:
        """Look at the data plane itself, not at this process's control plane.

        Raises:
            RuntimeError: an accepting thread has died, or one question has computed for more than `limit_s` seconds.
        """
        if not self._closing and not all(thread.is_alive() for thread in self._threads):
            raise RuntimeError(f"shard {self.shard.index}: its data thread has died")
        since = self._computing_since
        if since and time.monotonic() - since > limit_s:
            raise RuntimeError(f"shard {self.shard.index}: one question has been computing for over {limit_s:.0f} s")

    def status(self) -> dict[str, object]:
        """Counters for whoever asks over a STATUS frame: computed pairs, refused connections, bytes held."""
        return {
            "assignments": self._assignments,
            "rejected": dict(self.rejected),
            "weights_bytes": self.shard.weights_bytes,
            "experts": len(self.shard.experts) * len(self.shard.layers),
        }

    def close(self) -> None:
        """Stop listening and end every connection; a question that computes is finished but not answered."""
        self._closing = True
        for listener in self._listeners:
            listener.close()
        unlink_unix(self.endpoint.unix_path)
        for channel in list(self._channels):
            channel.close()

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True, name=f"shard-{self.shard.index}-data")
        thread.start()
        return thread

    def _accept_loop(self, listener: socket.socket) -> None:
        while not self._closing:
            try:
                sock, _ = listener.accept()
            except OSError:
                if self._closing:
                    return
                log.exception("shard %d could not accept a connection", self.shard.index)
                time.sleep(0.1)
                continue
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        channel = Channel(sock, self.endpoint.incarnation, self._checksum)
        self._channels.add(channel)
        try:
            channel.set_timeouts(HANDSHAKE_SECONDS)
            accept(channel, self._secret)
            channel.set_timeouts(FRAME_SECONDS)
            self._answer_all(channel)
        except Closed:
            pass
        except FrameError as error:
            self._refuse(error.reason, error)
        except OSError as error:
            self._refuse("timeout" if isinstance(error, TimeoutError) else "io", error)
        finally:
            self._channels.discard(channel)
            channel.close()

    def _refuse(self, reason: str, error: Exception) -> None:
        if not self._closing:
            self.rejected[reason] += 1
            log.warning("shard %d closed a connection (%s): %s", self.shard.index, reason, error)

    def _answer_all(self, channel: Channel) -> None:
        while True:
            try:
                header, payload = channel.receive()
            except Idle:
                continue
            self._answer(channel, header, payload)

    def _answer(self, channel: Channel, header: Header, payload: memoryview) -> None:
        if header.kind is Kind.EXPERTS:
            self._answer_call(channel, header, payload)
        elif header.kind is Kind.STATUS:
            channel.send(Kind.STATUS, header.sequence, [json.dumps(self.status()).encode()])
        else:
            raise FrameError("kind", f"a shard does not answer {header.kind.name} frames")

    def _answer_call(self, channel: Channel, header: Header, payload: memoryview) -> None:
        received = time.monotonic_ns()
        call = unpack_call(payload)
        try:
            with self._compute_lock, torch.inference_mode():
                self._computing_since = time.monotonic()
                started = time.monotonic_ns()
                self.delay()
                y_RD = self.shard.compute(call)
                self._assignments += len(call.rows_A)
        except Exception as error:
            log.exception("shard %d could not compute layer %d", self.shard.index, call.layer)
            channel.send(Kind.FAILURE, header.sequence, [f"{type(error).__name__}: {error}".encode()])
            return
        finally:
            self._computing_since = 0.0
        partial = Partial(y_RD, Stamps(received, started, time.monotonic_ns()))
        channel.send(Kind.PARTIALS, header.sequence, pack_partial(partial))
