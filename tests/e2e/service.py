"""A stand-in for a Kubernetes Service: new connections go to a backend whose readiness probe answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp

PROBE_SECONDS = 0.2


@dataclass
class Backend:
    """Where the API and the metrics page of a Front are, as HOST:PORT and URL."""

    target: str
    metrics: str


@dataclass
class Service:
    """Spreads connections over the backends that were ready when they were last asked."""

    backends: list[Backend] = field(default_factory=list)
    ready: list[Backend] = field(default_factory=list)
    target: str = ""
    _turn: int = 0

    async def probe(self) -> None:
        """Ask every backend's /healthz, as a kubelet does, until cancelled; one that is slow is not taken for bad."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
            while True:
                asked = list(self.backends)
                answers = await asyncio.gather(*(_is_ready(session, one) for one in asked))
                self.ready = [one for one, good in zip(asked, answers, strict=True) if good]
                await asyncio.sleep(PROBE_SECONDS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a client's connection to a backend's."""
        try:
            self._turn += 1
            host, port = self.ready[self._turn % len(self.ready)].target.rsplit(":", 1)
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except (OSError, ZeroDivisionError):  # no backend is ready
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))


@asynccontextmanager
async def service() -> AsyncIterator[Service]:
    """Run a Service without backends until the block ends."""
    made = Service()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    prober = asyncio.create_task(made.probe())
    try:
        yield made
    finally:
        prober.cancel()
        server.close()
        with suppress(asyncio.CancelledError):
            await prober


async def _is_ready(session: aiohttp.ClientSession, backend: Backend) -> bool:
    try:
        async with session.get(backend.metrics.replace("/metrics", "/healthz")) as answer:
            return answer.status == 200 and json.loads(await answer.text())["status"] == "serving"
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
