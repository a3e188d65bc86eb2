"""Sends requests: as they arrive (open loop), or a fixed number at a time (closed loop)."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, field
from itertools import islice

import grpc.aio

from cluster.bench.record import Record
from cluster.bench.workload import Question
from router_service.protocol import inference_pb2 as pb

Send = Callable[[Question], AsyncGenerator[pb.GenerateResponse, None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is sent at most; None is no limit.

    Args:
        requests: so many in all.
        seconds: none is sent later than this.
        concurrency: so many at a time.
    """

    requests: int | None = None
    seconds: float | None = None
    concurrency: int | None = None


@dataclass(slots=True)
class Run:
    """What a driver has seen so far.

    Args:
        records: of the requests that ended, in that order.
        running: requests in flight.
        unfinished: requests that were cancelled with the run.
        unsent: arrivals for which there was no room before the time was up.
    """

    begun: float
    records: list[Record] = field(default_factory=list)
    running: int = 0
    unfinished: int = 0
    unsent: int = 0


class Driver:
    """One run. `run` may be read at any time, also after the run was cancelled."""

    def __init__(
        self,
        send: Send,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._send, self._limits, self._clock, self._sleep = send, limits, clock, sleep
        self.run = Run(clock())

    async def open_loop(self, questions: Iterator[Question], gaps: Iterator[float]) -> None:
        """Send each question when it arrives, whatever became of those before.

        Behind `concurrency` requests an arrival waits, and its latency counts from its arrival. Arrivals that still
        wait when the time is up are counted as `unsent`.
        """
        limits = self._limits
        room = asyncio.Semaphore(limits.concurrency) if limits.concurrency else nullcontext()
        due = self._begin()
        async with asyncio.TaskGroup() as group:
            for question, gap in zip(islice(questions, limits.requests), gaps):
                due += gap
                if limits.seconds is not None and due >= self.run.begun + limits.seconds:
                    return
                await self._sleep(max(0.0, due - self._clock()))  # behind the schedule, too: those sent get to run
                group.create_task(self._in_turn(question, due, room))

    async def closed_loop(self, questions: Iterator[Question]) -> None:
        """Keep `concurrency` requests in flight: each follows the end of another one."""
        self._begin()
        left = islice(questions, self._limits.requests)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._limits.concurrency or 1):
                group.create_task(self._one_by_one(left))

    def _begin(self) -> float:
        self.run.begun = self._clock()
        return self.run.begun

    async def _one_by_one(self, questions: Iterator[Question]) -> None:
        while not self._time_is_up() and (question := next(questions, None)) is not None:
            await self._ask(question, self._clock())

    async def _in_turn(self, question: Question, due: float, room: AbstractAsyncContextManager[None]) -> None:
        async with room:
            if self._time_is_up():
                self.run.unsent += 1
            else:
                await self._ask(question, due)

    def _time_is_up(self) -> bool:
        seconds = self._limits.seconds
        return seconds is not None and self._clock() >= self.run.begun + seconds

    async def _ask(self, question: Question, due: float) -> None:
        record = Record(due, self._clock())
        self.run.running += 1
        try:
            async with aclosing(self._send(question)) as stream:  # an interrupt cancels the call
                async for response in stream:
                    record.add(response, self._clock())
        except grpc.aio.AioRpcError as error:
            record.status, record.detail = error.code().name, error.details() or ""
        except asyncio.CancelledError:
            self.run.unfinished += 1
            raise
        finally:
            self.run.running -= 1
        record.ended = self._clock()
        self.run.records.append(record)
