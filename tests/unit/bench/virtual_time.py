"""A clock that only sleeping moves, and a server whose answers take as long as they are told to."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from itertools import count
from typing import Any

from cluster.bench.workload import Question
from router_service.protocol import inference_pb2 as pb


class VirtualTime:
    """Everyone who sleeps is woken in order; time jumps to the next one once nothing else can run."""

    def __init__(self) -> None:
        self.now = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), woken))
        await woken

    async def run(self, work: Coroutine[Any, Any, None], until: float = float("inf")) -> None:
        """Run to the end, or cancel at the time `until`."""
        task = asyncio.create_task(work)
        while not task.done():
            for _ in range(20):  # whatever is ready
                await asyncio.sleep(0)
            if self._sleepers and not task.done():
                self.now, _, woken = heapq.heappop(self._sleepers)
                if self.now > until:
                    task.cancel()
                if not woken.done():
                    woken.set_result(None)
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            task.result()


class FakeServer:
    """Answers after `first` seconds, then each `gap` one token; `most` is how many it ever had at a time."""

    def __init__(self, time: VirtualTime, first: float = 1.0, gap: float = 0.5) -> None:
        self.time, self.first, self.gap = time, first, gap
        self.asked: list[Question] = []
        self.sent: list[float] = []
        self.running = self.most = 0
        self.fail: Callable[[int], Exception | None] = lambda _: None

    async def send(self, question: Question) -> AsyncGenerator[pb.GenerateResponse, None]:
        self.asked.append(question)
        self.sent.append(self.time.now)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.time.sleep(self.first)
            if failure := self.fail(len(self.asked)):
                raise failure
            for token in range(question.output_tokens):
                if token:
                    await self.time.sleep(self.gap)
                yield response(token, question.output_tokens, len(question.tokens or ()))
        finally:
            self.running -= 1


def response(token: int, of: int, prompt: int) -> pb.GenerateResponse:
    if token + 1 < of:
        return pb.GenerateResponse(token_ids=[token])
    usage = pb.Usage(prompt_tokens=prompt, generated_tokens=of, cached_prompt_tokens=1, queue_seconds=0.25)
    return pb.GenerateResponse(token_ids=[token], finish_reason=pb.LENGTH, usage=usage)


def questions(tokens: Sequence[int], output: int) -> list[Question]:
    """One for each element of `tokens`, a prompt of so many tokens."""
    return [Question(output, tokens=[1] * length) for length in tokens]
