"""A client that costs next to nothing, since it shares the cores with what it measures: bytes of event streams."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

EVENT = b"data: "
DONE = b"data: [DONE]"


@dataclass
class Stream:
    """One answer: its events, its longest pause in seconds between two of them, and how it ended."""

    events: int = 0
    pause_s: float = 0.0
    complete: bool = False
    lines: list[bytes] = field(default_factory=list)


async def request(port: int, path: str, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a POST and return the connection."""
    # A small limit: what a slow reader leaves unread is to wait in the kernel and the server, not here.
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    await writer.drain()
    return reader, writer


async def read(port: int, path: str, body: dict[str, Any], *, delay_s: float = 0.0, keep: bool = False) -> Stream:
    """Read an answer to its end; a slow reader waits for `delay_s` before each line."""
    reader, writer = await request(port, path, body)
    stream, last = Stream(), 0.0
    try:
        while line := await reader.readline():
            if not line.startswith(EVENT):
                continue
            now = time.monotonic()
            stream.pause_s = max(stream.pause_s, now - last if last else 0.0)
            last = now
            stream.events += 1
            stream.complete = stream.complete or line.startswith(DONE)
            if keep:
                stream.lines.append(line)
            if delay_s:
                await asyncio.sleep(delay_s)
    except (ConnectionError, ValueError):
        pass
    finally:
        writer.close()
    return stream
