"""Load is what was asked for, no more; latencies count from when requests were due."""

from itertools import cycle, repeat

import grpc
import grpc.aio
import pytest

from cluster.bench.arrivals import arrival_gaps
from cluster.bench.driver import Driver, Limits
from cluster.bench.record import OK
from router_service.protocol import inference_pb2 as pb
from tests.unit.bench.virtual_time import FakeServer, VirtualTime, questions


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def server(time: VirtualTime) -> FakeServer:
    return FakeServer(time)


def driver(server: FakeServer, requests: int | None = None, **limits: float) -> Driver:
    time = server.time
    return Driver(server.send, Limits(requests, **limits), clock=time.clock, sleep=time.sleep)  # type: ignore[arg-type]


def forever(output: int = 3) -> cycle:  # type: ignore[type-arg]
    return cycle(questions([5], output))


async def test_a_closed_loop_keeps_the_concurrency_and_sends_each_when_another_ends(
    time: VirtualTime, server: FakeServer
) -> None:
    load = driver(server, 6, concurrency=2)
    await time.run(load.closed_loop(forever()))
    assert server.most == 2
    assert server.sent == [100, 100, 102, 102, 104, 104]
    assert [record.status for record in load.run.records] == [OK] * 6
    assert {(record.ttft, record.tpot, record.latency) for record in load.run.records} == {(1.0, 0.5, 2.0)}


async def test_an_open_loop_sends_at_the_arrivals_whatever_becomes_of_those_before(
    time: VirtualTime, server: FakeServer
) -> None:
    load = driver(server, 5)
    await time.run(load.open_loop(forever(), repeat(0.25)))
    assert server.sent == [100.25, 100.5, 100.75, 101.0, 101.25]
    assert server.most == 5


async def test_an_arrival_that_waits_for_room_counts_from_its_arrival(time: VirtualTime, server: FakeServer) -> None:
    load = driver(server, 3, concurrency=1)
    await time.run(load.open_loop(forever(), repeat(0.5)))
    assert server.most == 1
    assert server.sent == [100.5, 102.5, 104.5]
    assert [record.due for record in load.run.records] == [100.5, 101.0, 101.5]
    assert [record.ttft for record in load.run.records] == [1.0, 2.5, 4.0]
    assert [record.latency for record in load.run.records] == [2.0, 3.5, 5.0]


async def test_a_client_behind_its_schedule_counts_the_delay(time: VirtualTime, server: FakeServer) -> None:
    async def late(seconds: float) -> None:
        await time.sleep(seconds + 0.125)

    load = Driver(server.send, Limits(2), clock=time.clock, sleep=late)
    await time.run(load.open_loop(forever(1), repeat(1.0)))
    assert [(record.sent - record.due, record.ttft) for record in load.run.records] == [(0.125, 1.125)] * 2


async def test_nothing_is_sent_behind_the_duration(time: VirtualTime, server: FakeServer) -> None:
    closed = driver(server, seconds=3.0, concurrency=1)
    await time.run(closed.closed_loop(forever()))
    assert server.sent == [100, 102]
    opened = driver(server, seconds=3.0)
    await time.run(opened.open_loop(forever(), repeat(1.0)))
    assert server.sent[2:] == [105, 106]


async def test_arrivals_without_room_before_the_time_was_up_are_counted(time: VirtualTime, server: FakeServer) -> None:
    load = driver(server, seconds=3.0, concurrency=1)
    await time.run(load.open_loop(forever(), repeat(0.5)))
    assert server.sent == [100.5, 102.5]
    assert (len(load.run.records), load.run.unsent) == (2, 3)


async def test_failures_keep_their_status_and_the_load_goes_on(time: VirtualTime, server: FakeServer) -> None:
    refused = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata(), details="the queue is full"
    )
    server.fail = lambda number: refused if number == 2 else None
    load = driver(server, 3, concurrency=1)
    await time.run(load.closed_loop(forever()))
    assert [record.status for record in load.run.records] == [OK, "RESOURCE_EXHAUSTED", OK]
    assert load.run.records[1].detail == "the queue is full"


async def test_a_stream_that_a_stopping_server_ends_is_no_answer(time: VirtualTime) -> None:
    async def cut(_: object):  # type: ignore[no-untyped-def]
        yield pb.GenerateResponse(token_ids=[1], finish_reason=pb.CANCELLED)

    load = Driver(cut, Limits(1), clock=time.clock, sleep=time.sleep)
    await time.run(load.closed_loop(forever()))
    assert [record.status for record in load.run.records] == ["CANCELLED"]


async def test_an_interrupt_keeps_what_was_measured_and_frees_the_server(time: VirtualTime, server: FakeServer) -> None:
    load = driver(server, concurrency=2)
    await time.run(load.closed_loop(forever()), until=103.0)
    assert len(load.run.records) == 2
    assert (load.run.running, load.run.unfinished, server.running) == (0, 2, 0)


def drawn(rate: float, burstiness: float, count: int = 4000) -> list[float]:
    return [gap for gap, _ in zip(arrival_gaps(rate, burstiness, seed=1), range(count))]


@pytest.mark.parametrize(("burstiness", "variation"), [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5), (float("inf"), 0.0)])
def test_arrivals_have_their_rate_and_their_burstiness(burstiness: float, variation: float) -> None:
    gaps = drawn(8.0, burstiness)
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 8, rel=0.1)
    assert deviation / mean == pytest.approx(variation, rel=0.1, abs=1e-6)


def test_arrivals_depend_on_their_seed_alone_and_may_come_at_once() -> None:
    assert drawn(8.0, 1.0, 5) == drawn(8.0, 1.0, 5)
    assert drawn(float("inf"), 1.0, 3) == [0.0] * 3
