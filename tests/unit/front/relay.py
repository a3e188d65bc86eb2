"""A relay between a client and a Front: its connections can fall silent, or break, as no local socket does."""

import asyncio
import ctypes
import socket
import struct
from typing import Self

# linux/filter.h: the one instruction "return 0", which passes nothing of a packet on.
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
SO_ATTACH_FILTER = 26
# HTTP/2: the size of a frame's head, and kinds and flags of frames.
HEAD = 9
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1


class Relay:
    """Forwards bytes both ways. While it is `silent` it reads and drops them, as a network without the peer does.

    `vanish` goes further: the Front's packets are not even acknowledged any more, so that its kernel finds nobody.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.silent = False
        self.port = 0
        self.sent = 0  # bytes to the Front
        self._writers: list[asyncio.StreamWriter] = []
        self._there: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def vanish(self) -> None:
        """Neither send nor acknowledge anything to the Front any more: what arrives is dropped below TCP."""
        self.silent = True
        for writer in self._there:
            code = ctypes.create_string_buffer(DROP_ALL)
            program = struct.pack("HP", 1, ctypes.addressof(code))
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, there_writer]
        self._there.append(there_writer)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)

    @property
    def connections(self) -> int:
        """How many it has had."""
        return len(self._there)

    def heard(self, data: bytes) -> None:
        """The Front sends this."""

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            to_front = sink in self._there
            if not to_front:
                self.heard(data)
            if not self.silent:
                sink.write(data)
                await sink.drain()
                self.sent += len(data) if to_front else 0


class Http2Relay(Relay):
    """Counts what a Front answers on the one connection of a client that pings."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.answered = self.farewells = 0
        self._rest = b""

    def heard(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= HEAD and len(self._rest) >= (end := HEAD + int.from_bytes(self._rest[:3])):
            kind, flags = self._rest[3:5]
            self.answered += kind == PING and flags == ACK
            self.farewells += kind == GOAWAY
            self._rest = self._rest[end:]
