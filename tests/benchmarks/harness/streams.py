"""A stream under observation: when its tokens came and how it ended."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

from router_service.client.client import Client
from router_service.protocol import inference_pb2


@dataclass(eq=False)
class Stream:
    """`times` has one entry a token, `ended` how it ended (a finish reason or an error code), `ended_at` when."""

    begun: float
    times: list[float] = field(default_factory=list)
    ended: str = ""
    detail: str = ""
    ended_at: float = 0.0
    task: "asyncio.Task[None]" = field(init=False)

    @classmethod
    def start(cls, client: Client, tokens: Sequence[int], new_tokens: int, timeout_s: float) -> "Stream":
        """Begin a greedy stream that nothing but its length ends."""
        stream = cls(time.perf_counter())
        stream.task = asyncio.create_task(stream._read(client, tokens, new_tokens, timeout_s))
        return stream

    async def wait(self) -> "Stream":
        """Return once it has ended well.

        Raises:
            RuntimeError: it ended otherwise.
        """
        await self.task
        if self.ended != "LENGTH":
            raise RuntimeError(f"a stream ended with {self.ended}: {self.detail}")
        return self

    async def cancel(self) -> None:
        """Give it up if it still runs."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _read(self, client: Client, tokens: Sequence[int], new_tokens: int, timeout_s: float) -> None:
        options = {"max_tokens": new_tokens, "temperature": 0.0, "ignore_eos": True}
        try:
            async for response in client.generate(tokens=tokens, timeout=timeout_s, **options):  # type: ignore[arg-type]
                self.times += [time.perf_counter()] * len(response.token_ids)
                if response.finish_reason:
                    self.ended = inference_pb2.FinishReason.Name(response.finish_reason)
        except grpc.aio.AioRpcError as error:
            self.ended, self.detail = error.code().name, error.details() or ""
        finally:
            self.ended_at = time.perf_counter()


def decode_rate(streams: Sequence[Stream]) -> float:
    """Tokens per second of all streams together from the moment when the last one got its first token."""
    begin = max(stream.times[0] for stream in streams)
    rates = []
    for stream in streams:
        counted = sum(at > begin for at in stream.times)
        if counted:
            rates.append(counted / (stream.times[-1] - begin))
    if len(rates) < len(streams):
        raise RuntimeError("a stream had ended before the last one began: generate more tokens")
    return sum(rates)
