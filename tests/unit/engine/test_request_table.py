"""A request has one record, found by its key and by its Front's stream, until its last event is published."""

import pytest

from router_service.engine.request import OURSELVES, Request
from router_service.engine.request_table import RequestTable
from tests.support.mesh import greedy


def request(key: int, front: int, stream: int) -> Request:
    return Request(
        key=key,
        front=front,
        stream=stream,
        request_id=str(key),
        params=greedy(4),
        tokens=[1, 2, 3],
        prompt_length=3,
        return_routing=False,
        arrived=0.0,
    )


@pytest.fixture
def table() -> RequestTable:
    table = RequestTable()
    for key, (front, stream) in enumerate([(1, 1), (1, 2), (2, 1)]):
        table.add(request(key, front, stream))
    return table


def test_both_ways_lead_to_the_same_record(table: RequestTable) -> None:
    assert table.of_stream(1, 2) is table[1] is table.get(1)
    assert table.of_front(1) == [table[0], table[1]]
    assert (len(table), table.streams) == (3, 3)


def test_what_has_ended_is_found_until_it_is_forgotten(table: RequestTable) -> None:
    ended = table[1]
    table.end(ended)
    assert ended not in table.alive()
    assert table.of_stream(1, 2) is ended
    assert (len(table.alive()), table.streams) == (2, 3)
    assert table.forget(1) is ended
    assert (table.forget(1), table.get(1), table.of_stream(1, 2)) == (None, None, None)
    assert table.streams == 2


def test_what_the_router_asks_of_itself_is_no_stream_and_goes_when_it_ends(table: RequestTable) -> None:
    ours = request(9, OURSELVES, 0)
    table.add(ours)
    assert (len(table), table.streams, table.of_stream(OURSELVES, 0)) == (4, 3, None)
    table.end(ours)
    assert (table.get(9), table.streams) == (None, 3)


def test_a_stream_that_is_opened_anew_outlives_its_last_request(table: RequestTable) -> None:
    again = request(5, 1, 1)
    table.add(again)
    table.forget(0)
    assert table.of_stream(1, 1) is again


def test_keys_are_not_given_twice() -> None:
    table = RequestTable()
    assert len({table.new_key() for _ in range(100)}) == 100


def test_the_scheduler_shares_the_records_tokens() -> None:
    one = request(1, 1, 1)
    one.sequence.tokens.append(7)
    assert (one.tokens, one.generated, one.sequence.max_length) == ([1, 2, 3, 7], 1, 7)
