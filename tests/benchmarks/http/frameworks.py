"""What aiohttp and Starlette (FastAPI) on uvicorn cost a server: processor time for each event of 32 streams, and for
the validation of a request, by msgspec and by pydantic.
"""

import asyncio
import multiprocessing
import socket
import time
from collections.abc import AsyncIterator, Callable

import psutil

from tests.benchmarks.http.raw_client import Stream, read

STREAMS = 32
EVENTS = 2000
CHUNK = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":"word"}}]}\n\n'
BODY = {"model": "m", "messages": [{"role": "user", "content": "x" * 200}], "stream": True, "temperature": 0.7}


def serve_aiohttp(port: int) -> None:
    """A route that validates by msgspec and streams."""
    import msgspec
    from aiohttp import web

    class Message(msgspec.Struct):
        role: str
        content: str

    class Body(msgspec.Struct):
        model: str
        messages: list[Message]
        stream: bool = False
        temperature: float | None = None

    async def answer(request: web.Request) -> web.StreamResponse:
        msgspec.json.decode(await request.read(), type=Body)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(EVENTS):
            await response.write(CHUNK)
            await asyncio.sleep(0)
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


def serve_fastapi(port: int) -> None:
    """The same route by FastAPI on uvicorn (httptools)."""
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from pydantic import BaseModel

    class Message(BaseModel):
        role: str
        content: str

    class Body(BaseModel):
        model: str
        messages: list[Message]
        stream: bool = False
        temperature: float | None = None

    app = FastAPI()

    async def events() -> AsyncIterator[bytes]:
        for _ in range(EVENTS):
            yield CHUNK
            await asyncio.sleep(0)
        yield b"data: [DONE]\n\n"

    async def answer(_: Body) -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    app.post("/v1/chat/completions")(answer)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def microseconds(serve: Callable[[int], None]) -> float:
    """Processor time of the server for each event."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    process.start()
    try:
        asyncio.run(_listening(port))
        used = psutil.Process(process.pid)
        before = sum(used.cpu_times()[:2])
        streams = asyncio.run(_load(port))
        assert all(stream.complete for stream in streams)
        return (sum(used.cpu_times()[:2]) - before) / (STREAMS * EVENTS) * 1e6
    finally:
        process.kill()
        process.join()


async def _load(port: int) -> list[Stream]:
    return await asyncio.gather(*(read(port, "/v1/chat/completions", BODY) for _ in range(STREAMS)))


async def _listening(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise AssertionError("the server does not listen")


def rows() -> list[str]:
    """The table, one line a row."""
    sides = (("aiohttp, msgspec", serve_aiohttp), ("FastAPI on uvicorn, pydantic", serve_fastapi))
    return ["| server | processor time of an event |", "|---|---|"] + [
        f"| {name} | {microseconds(serve):.1f} us |" for name, serve in sides
    ]
