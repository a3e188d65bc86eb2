"""The order in which a Front's events are sent, whatever is large and however the steps fall."""

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.engine.request import SCORES_OF_EVENT, Event
from router_service.engine.routed_rows import RoutedRows
from router_service.protocol.messages import Logprob, TokenLogprobs, encode
from router_service.router.sending.front_writer import output_of
from router_service.router.sending.send_order import PIECE_BYTES, SendOrder, large_bytes
from tests.support.routed import positions_of
from tests.unit.engine.routed_cases import routed_rows, step_of

STREAMS = (1, 2, 3)


def event_of(stream: int, token: int, *routing: RoutedRows) -> Event:
    return Event(key=stream, front=1, stream=stream, token=token, routing=routing)


@st.composite
def steps(draw: st.DrawFn) -> list[list[Event]]:
    """Steps of three streams; positions follow each other, some come with no token before them."""
    next_position = dict.fromkeys(STREAMS, 0)
    made = []
    for number in range(draw(st.integers(1, 6))):
        events = []
        for stream in draw(st.lists(st.sampled_from(STREAMS), unique=True)):
            rows = []
            for one in draw(st.lists(routed_rows(), max_size=2)):
                rows.append(replace(one, first=next_position[stream]))
                next_position[stream] += one.count
            events.append(event_of(stream, number, *rows))
        made.append(events)
    return made


@given(steps(), st.integers(20, 3000), st.randoms(use_true_random=False))
def test_each_stream_gets_all_of_its_events_in_order(steps: list[list[Event]], most: int, random) -> None:  # type: ignore[no-untyped-def]
    order = SendOrder(most)
    frames: list[list[Event]] = []
    for events in steps:
        frames.append(order.add(events))
        frames.extend(order.take() for _ in range(random.randint(0, 3)))
    while not order.empty:
        frames.append(order.take())
    sent, expected = defaultdict(list), defaultdict(list)
    for found, groups in ((sent, frames), (expected, steps)):
        for event in (event for group in groups for event in group):
            found[event.stream] += [one for rows in event.routing for one in positions_of(rows.pack())]
            found[event.stream] += [] if event.token is None else [event.token]  # type: ignore[list-item]
    assert sent == expected
    for event in (event for frame in frames for event in frame):
        assert len(event.routing) <= 1
        assert large_bytes(event) <= most or event.routing[0].count == 1


def test_a_small_event_does_not_wait_for_anothers_pieces() -> None:
    rows = RoutedRows(step_of(rows=30, layers=2), first=0, start=0, count=30)
    order = SendOrder(rows.nbytes // 3)
    large, small = event_of(1, 7, rows), event_of(2, 8)
    assert order.add([large, small]) == [small]
    first = order.take()
    assert [(event.token, event.routing[0].count) for event in first] == [(None, 10)]
    assert order.add([event_of(1, 9), small]) == [small]
    assert [(event.token, event.routing[0].count) for event in order.take()] == [(None, 10)]
    # The stream's next token follows its last piece.
    assert [event.token for event in order.take()] == [7, 9]
    assert order.empty


def test_streams_take_turns_with_their_pieces() -> None:
    rows = RoutedRows(step_of(rows=4, layers=2), first=0, start=0, count=4)
    order = SendOrder(rows.nbytes // 2)
    order.add([event_of(1, 7, rows), event_of(2, 8, rows)])
    assert [[event.stream for event in order.take()] for _ in range(4)] == [[1], [2], [1], [2]]


def test_log_probabilities_of_a_prompt_wait_like_its_routing() -> None:
    entry = TokenLogprobs(Logprob(5, -0.5), [Logprob(n, -0.5) for n in range(20)])
    parts = [Event(key=1, front=1, stream=1, token=None, prompt_logprobs=[entry] * SCORES_OF_EVENT) for _ in range(3)]
    assert PIECE_BYTES // 2 < large_bytes(parts[0]) < PIECE_BYTES
    assert len(encode(output_of(parts[0]))) == pytest.approx(large_bytes(parts[0]), rel=0.2)
    order = SendOrder()
    assert order.add([*parts, event_of(1, 7), event_of(2, 8)]) == [parts[0], event_of(2, 8)]
    assert order.take() == [parts[1]]
    assert order.take() == [parts[2], event_of(1, 7)]


def test_a_batch_that_is_large_together_is_sent_in_pieces() -> None:
    """Each output is small, as in a batch of which every stream wants its routing."""
    step = step_of(rows=20, layers=2)
    events = [event_of(n, 7, RoutedRows(step, first=9, start=n, count=1)) for n in range(20)]
    order = SendOrder(5 * large_bytes(events[0]))
    frames = [order.add(events)]
    while not order.empty:
        frames.append(order.take())
    assert [[event.stream for event in frame] for frame in frames] == [list(range(n, n + 5)) for n in (0, 5, 10, 15)]


def test_what_is_cancelled_is_not_sent() -> None:
    rows = RoutedRows(step_of(rows=4, layers=2), first=0, start=0, count=4)
    order = SendOrder(rows.nbytes // 2)
    order.add([event_of(1, 7, rows)])
    order.drop(1)
    order.drop(2)
    assert order.empty
    assert order.take() == []
