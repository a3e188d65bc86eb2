"""A relay between a router and a shard: holds the frames of either direction for a known time, counts their bytes."""

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from experts.transport.address import Endpoint, dial, listen_tcp, listen_unix
from experts.transport.frame import HEADER, Kind, parse_header

DATA = (Kind.EXPERTS, Kind.PARTIALS)
# The directions: to the shard, and back to the router.
OUT, BACK = "out", "back"
LIMIT_S = 30.0
NOISE = random.Random(0)


@dataclass
class Relay:
    """Forwards whole frames between whoever dials `endpoint` and `shard`, by unix socket on one node, else by TCP.

    A frame of `kind` is held for `hold_s[kind]` seconds before its first byte goes on; `held_ns[kind, sequence]` is how
    long it was in truth, `passed_ns[kind, sequence]` when that ended. `bytes` counts by kind.

    Frames in a direction that `loses` has are read and go nowhere; those of a kind in `garbles` arrive as noise, under
    their own headers.
    """

    shard: Endpoint
    node: str
    hold_s: dict[Kind, float] = field(default_factory=dict)
    held_ns: dict[tuple[Kind, int], int] = field(default_factory=dict)
    passed_ns: dict[tuple[Kind, int], int] = field(default_factory=dict)
    bytes: Counter[Kind] = field(default_factory=Counter)
    loses: set[str] = field(default_factory=set)
    garbles: set[Kind] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._unix, name = listen_unix()
        self._tcp, port = listen_tcp("127.0.0.1")
        self._sockets = [self._unix, self._tcp]
        self._threads: list[threading.Thread] = []
        self.endpoint = replace(self.shard, unix_name=name, port=port)
        for listener in (self._unix, self._tcp):
            self._start(self._accept, listener)

    def close(self) -> None:
        """Hang up everywhere."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT_S)
        for sock in self._sockets:
            sock.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = dial(self.shard, self.node, LIMIT_S)
                far.settimeout(None)
                self._sockets += [near, far]
                self._start(self._pump, near, far, OUT)
                self._start(self._pump, far, near, BACK)

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = _exactly(source, HEADER.size)
                header = parse_header(head)
                frame = head + _exactly(source, header.length)
                self._hold(header.kind, header.sequence)
                if direction in self.loses:
                    continue
                sink.sendall(head + NOISE.randbytes(header.length) if header.kind in self.garbles else frame)
                self.bytes[header.kind] += len(frame)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _hold(self, kind: Kind, sequence: int) -> None:
        if kind in DATA:
            begun = time.monotonic_ns()
            if seconds := self.hold_s.get(kind, 0.0):
                time.sleep(seconds)
            self.passed_ns[kind, sequence] = now = time.monotonic_ns()
            self.held_ns[kind, sequence] = now - begun


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
