"""The one record of a request: what it counts, and that what listens to it harms nothing."""

import io
import json
from collections.abc import Callable

import pytest

from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.request_record import RequestListener, RequestRecord
from router_service.front.telemetry.request_telemetry import RequestTelemetry
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import SamplingParams, StreamOutput, Submit, Timings
from tests.unit.front.api.test_front_generate import check_one_end, collect, ids_of
from tests.unit.front.front_world import World

SUBMIT = Submit(0, "id", [5, 6, 7], SamplingParams(max_tokens=9))


class Notes(RequestListener):
    """Writes down what it hears and what the record says at that moment."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def submitted(self, record: RequestRecord) -> None:
        self.heard.append(("submitted", record.prompt_tokens))

    def arrived(self, record: RequestRecord, arrival: Arrival) -> None:
        self.heard.append(("arrived", arrival.at, record.received.tokens))

    def tokens(self, record: RequestRecord, count: int, since: float | None) -> None:
        self.heard.append(("tokens", count, since, record.answer.last))

    def finished(self, record: RequestRecord) -> None:
        self.heard.append(("finished", record.finish, record.seconds))

    def failed(self, record: RequestRecord) -> None:
        self.heard.append(("failed", record.code, record.message, record.seconds))


class Broken(Notes):
    """Fails at every step."""

    def _fail(self, record: RequestRecord, *_: object) -> None:
        raise ValueError(record.submit)

    submitted = arrived = tokens = finished = failed = _fail


def arrival(at: float, tokens: int, timings: Timings | None = None) -> Arrival:
    return Arrival(at, StreamOutput(1, [5] * tokens, timings=timings))


def clock_of(*times: float) -> Callable[[], float]:
    return iter(times).__next__


def live(record: RequestRecord) -> None:
    """Three outputs come in two frames; the last lies behind the end of the answer."""
    first, second, behind = arrival(12.0, 0), arrival(13.0, 2), arrival(15.0, 4)
    record.submitted(SUBMIT)
    record.arrived([first, second])
    record.tokens(first, 0)
    record.tokens(second, 2)
    record.arrived([behind])
    record.tokens(behind, 1)
    record.finished(pb.STOP)


STEPS = [
    ("submitted", 3),
    ("arrived", 12.0, 0),
    ("arrived", 13.0, 2),
    ("tokens", 2, None, 13.0),
    ("arrived", 15.0, 6),
    ("tokens", 1, 13.0, 15.0),
    ("finished", "stop", 10.0),
]


def test_listeners_hear_of_each_step_after_the_record_has_it() -> None:
    notes = Notes()
    record = RequestRecord("id", clock_of(10.0, 20.0), [notes])
    live(record)
    assert notes.heard == STEPS
    assert (record.received.tokens, record.answer.tokens) == (6, 3)
    assert (record.answer.first, record.answer.last, record.ended) == (13.0, 15.0, 20.0)


def test_a_failure_has_its_code_and_what_it_took() -> None:
    notes = Notes()
    record = RequestRecord("id", clock_of(1.0, 3.5), [notes])
    record.failed("UNAVAILABLE", "no router is linked")
    assert notes.heard == [("failed", "UNAVAILABLE", "no router is linked", 2.5)]
    assert record.prompt_tokens == 0


@pytest.mark.parametrize("broken_first", [True, False])
def test_a_broken_listener_harms_neither_the_request_nor_the_others(written: io.StringIO, broken_first: bool) -> None:
    notes = Notes()
    listeners = [Broken(), notes] if broken_first else [notes, Broken()]
    live(RequestRecord("id", clock_of(10.0, 20.0), listeners))
    assert notes.heard == STEPS
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    said = "an observer failed (Broken), the request that it watches goes on"
    assert [line["message"] for line in lines] == [said] * len(STEPS)
    assert all(line["stack"].endswith("ValueError") and "[5, 6, 7]" not in json.dumps(line) for line in lines)


def test_the_fronts_own_measure_stands_in_for_the_routers_times() -> None:
    record = RequestRecord("id", clock_of(10.0))
    assert record.timings == Timings(0.0, 0.0, 0.0)
    record.tokens(arrival(11.0, 1), 1)
    record.tokens(arrival(14.0, 1), 1)
    assert record.timings == Timings(0.0, 1.0, 3.0)
    record.tokens(arrival(15.0, 1, Timings(0.25, 0.5, 0.0, 3)), 1)
    assert record.timings == Timings(0.25, 0.5, 4.0, 3)
    record.tokens(arrival(16.0, 1, Timings(0.25, 0.5, 2.0, 3)), 1)
    assert record.timings == Timings(0.25, 0.5, 2.0, 3)


async def test_a_tracer_that_fails_leaves_a_request_untraced(world: World) -> None:
    class BrokenTracer:
        def begin(self, *_: object) -> None:
            raise ValueError("no spans today")

    await world.front()
    telemetry = RequestTelemetry(world.server.metrics, BrokenTracer())  # type: ignore[arg-type]
    record = telemetry.begin(pb.GenerateRequest(request_id="mine"), {})
    assert (record.request_id, record.trace_id) == ("mine", "")


async def test_answers_come_whole_while_metrics_are_broken(world: World, written: io.StringIO) -> None:
    _, client = await world.serve()
    world.server.metrics.generation_tokens = None  # type: ignore[assignment]
    responses = await collect(client, tokens=[5, 6, 7], max_tokens=4)
    check_one_end(responses)
    assert ids_of(responses) == [5, 6, 7, 5]
    messages = [json.loads(line)["message"] for line in written.getvalue().splitlines()]
    assert messages.count("request finished") == 1
    assert "an observer failed (RequestMetrics), the request that it watches goes on" in messages
