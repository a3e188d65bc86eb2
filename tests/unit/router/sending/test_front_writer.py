"""What a Front's writer sends: pieces between the steps, and never a message that the Front would not read."""

import logging
from collections.abc import Callable

import pytest

from experts.transport.frame import Kind
from router_service.engine.request import Event
from router_service.engine.routed_rows import RoutedRows
from router_service.protocol.messages import (
    Cancel,
    Logprob,
    RouterHello,
    StepOutputs,
    StreamOutput,
    TokenLogprobs,
    decode_to_front,
)
from router_service.router.sending.front_writer import FrontWriter
from router_service.router.sending.send_order import PIECE_BYTES
from tests.unit.engine.routed_cases import step_of
from tests.unit.front.front_fakes import report

LIMIT = 2000


class Sent:
    """A channel that keeps what is sent, and ends the writer after `frames` frames."""

    def __init__(self, frames: int) -> None:
        self.payloads: list[bytes] = []
        self.frames = frames
        self.end: Callable[[], None] = lambda: None

    def send(self, kind: Kind, sequence: int, parts: list[bytes]) -> None:
        assert (kind, sequence) == (Kind.MESSAGE, len(self.payloads))
        self.payloads += parts
        if len(self.payloads) == self.frames:
            self.end()


def written(items: list[object], frames: int, limit: int) -> tuple[Sent, list[int]]:
    """What is sent until `frames` frames are, and the streams that are reported as failed."""
    sent, failed = Sent(frames), list[int]()
    writer = FrontWriter(sent, failed.append, limit)  # type: ignore[arg-type]
    sent.end = lambda: writer.outgoing.put(None)
    for item in items:
        writer.outgoing.put(item)  # type: ignore[arg-type]
    writer.run()
    return sent, failed


def outputs(payload: bytes) -> list[StreamOutput]:
    message = decode_to_front(payload)
    assert isinstance(message, StepOutputs)
    return message.outputs


def token(stream: int, token: int = 5, logprobs: int = 0) -> Event:
    best = [Logprob(n, -0.5) for n in range(logprobs)]
    entry = TokenLogprobs(best[0], best) if best else None
    return Event(key=stream, front=1, stream=stream, token=token, logprobs=entry)


def test_others_wait_for_no_more_than_a_piece() -> None:
    step = step_of(rows=4000, layers=20)
    rows = RoutedRows(step, first=0, start=0, count=4000)
    large = Event(key=1, front=1, stream=1, token=6, routing=(rows,))
    number = len(rows.pieces(PIECE_BYTES))
    sent, failed = written([[large, token(2)], [token(2)], [token(2)]], 3 + number, 1 << 20)
    streams = [[output.stream for output in outputs(payload)] for payload in sent.payloads]
    assert streams == [[2], [1], [2], [1], [2], *[[1]] * (number - 2)]
    assert max(map(len, sent.payloads)) < PIECE_BYTES + 1000
    parts = [output for payload in sent.payloads for output in outputs(payload) if output.stream == 1]
    assert sum(output.routing.positions for output in parts if output.routing is not None) == 4000
    assert [output.token_ids for output in parts] == [[]] * (number - 1) + [[6]]
    assert failed == []


def test_an_output_over_the_limit_fails_its_own_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    events = [token(1), token(2, logprobs=200), token(3), token(4)]
    sent, failed = written([events, [token(1)]], 4, LIMIT)
    assert failed == [2]
    assert max(map(len, sent.payloads)) <= LIMIT
    found = [output for payload in sent.payloads for output in outputs(payload)]
    assert [(output.stream, output.token_ids) for output in found] == [(1, [5]), (2, []), (3, [5]), (4, [5]), (1, [5])]
    failure = found[1].failure
    assert failure is not None
    assert failure.code == "RESOURCE_EXHAUSTED"
    assert f"a message to a Front at most {LIMIT}" in failure.message
    assert failure.message in caplog.text


def test_many_outputs_that_are_too_large_together_come_in_several_messages() -> None:
    sent, failed = written([[token(stream, logprobs=20) for stream in range(20)]], 8, LIMIT)
    assert [output.stream for payload in sent.payloads for output in outputs(payload)] == list(range(20))
    assert failed == []


def test_a_report_over_the_limit_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    hello = RouterHello("r0", 10, 9)
    with caplog.at_level(logging.ERROR):
        sent, _ = written([hello, report(router="r" * LIMIT), [token(1)]], 2, LIMIT)
    assert decode_to_front(sent.payloads[0]) == hello
    assert [output.stream for output in outputs(sent.payloads[1])] == [1]
    assert "a message to a front is left out" in caplog.text


def test_a_cancelled_streams_pieces_are_not_sent() -> None:
    rows = RoutedRows(step_of(rows=4000, layers=20), first=0, start=0, count=4000)
    large = Event(key=1, front=1, stream=1, token=6, routing=(rows,))
    sent, _ = written([[large], Cancel(1), [token(2)]], 2, 1 << 20)
    assert [[output.stream for output in outputs(payload)] for payload in sent.payloads] == [[1], [2]]
