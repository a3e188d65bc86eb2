"""The routing of a request's rows: packed whole or in pieces it is the same, and it says what the step chose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.engine.routed_rows import RoutedRows
from router_service.protocol.messages import StepOutputs, StreamOutput, decode_to_front, encode
from router_service.protocol.routing_part import RoutingPart, arrays_of, from_position
from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.routed import positions_of, routing_of
from tests.support.tiny import Tiny
from tests.unit.engine.routed_cases import routed_rows, step_of


def test_a_part_says_what_the_step_chose() -> None:
    step = step_of(rows=9, layers=2, scored=True)
    part = RoutedRows(step, first=100, start=4, count=3, scored=4).pack()
    assert (part.first, part.positions, part.layers) == (100, 3, [1, 3])
    arrays = arrays_of(part)
    for layer, routing in enumerate(step.routings):
        chosen_PK = routing.expert_ids_TK[step.rows_R[4:7]]
        np.testing.assert_array_equal(arrays.experts_PLK[:, layer], chosen_PK)
        np.testing.assert_array_equal(arrays.weights_PLK[:, layer], routing.weights_TK[step.rows_R[4:7]])
        np.testing.assert_array_equal(arrays.shards_PLK[:, layer], step.shards[layer][step.rows_R[4:7]])
        scores_RN, ids_RN = step.scores[layer]
        np.testing.assert_array_equal(arrays.scores_PLN[:, layer], scores_RN[4:7])
        np.testing.assert_array_equal(arrays.scored_experts_PLN[:, layer], ids_RN[4:7])


@given(routed_rows(first=5), st.integers(1, 2000))
def test_pieces_are_small_and_together_the_whole(rows: RoutedRows, most_bytes: int) -> None:
    pieces = rows.pieces(most_bytes)
    assert sum(piece.nbytes for piece in pieces) == rows.nbytes
    assert all(piece.nbytes <= most_bytes or piece.count == 1 for piece in pieces)
    parts = [piece.pack() for piece in pieces]
    assert [part.first for part in parts] == list(np.cumsum([5, *(part.positions for part in parts[:-1])]))
    assert [one for part in parts for one in positions_of(part)] == positions_of(rows.pack())
    data = ("experts", "weights", "shards", "scored_experts", "scores")
    assert sum(len(getattr(part, name)) for part in parts for name in data) == rows.nbytes


@given(routed_rows(first=5), st.integers(0, 50))
def test_what_was_delivered_is_cut_off(rows: RoutedRows, position: int) -> None:
    whole, rest = rows.pack(), from_position(rows.pack(), position)
    left = positions_of(whole)[max(0, position - 5) :]
    assert (positions_of(rest) if rest is not None else []) == left
    assert rest is None or rest.first == max(5, position)


@given(routed_rows())
def test_a_part_survives_the_wire(rows: RoutedRows) -> None:
    sent = StepOutputs([StreamOutput(1, [5], routing=rows.pack())])
    assert decode_to_front(encode(sent)) == sent


def test_lengths_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="reshape"):
        arrays_of(RoutingPart(0, 2, [1], b"\0" * 6, b"\0" * 8, b"\0" * 4))


def test_each_chunk_of_a_prompt_reports_its_routing_at_once(tiny) -> None:  # type: ignore[no-untyped-def]
    """Kept until the first token, the routing of a long prompt would hold the arrays of all its steps."""
    made: Tiny = tiny("qwen3_moe")
    prompt = list(range(3, 43))
    with Mesh(made.plan, 2) as mesh:
        whole = mesh.generate([prompt], greedy(4), return_routing=True, return_scores=True)[0]
    with Mesh(made.plan, 2, max_sequences=1, token_budget=16, block_size=4) as mesh:
        chunks = mesh.generate([prompt], greedy(4), return_routing=True, return_scores=True)[0]
    assert [event.token is None for event in chunks] == [True, True, False, False, False, False]
    assert [sum(rows.count for rows in event.routing) for event in chunks] == [16, 16, 8, 1, 1, 1]
    assert tokens_of(chunks) == tokens_of(whole)
    experts = [[[one.experts for one in at] for at in routing_of(events)] for events in (chunks, whole)]
    assert experts[0] == experts[1]
    assert {len(one.scores) for at in routing_of(chunks) for one in at} == {made.plan.spec.gate.experts}


def test_what_another_router_has_reported_is_left_out(tiny) -> None:  # type: ignore[no-untyped-def]
    with Mesh(tiny("qwen3_moe").plan, 2) as mesh:
        events = mesh.generate([[5, 6, 7, 8]], greedy(2), return_routing=True, routed=3)[0]
    assert [(rows.first, rows.count) for event in events for rows in event.routing] == [(3, 1), (4, 1)]
